"""Methods: a learner (how a task is adapted) combined with an estimator (how the outer signal is computed).

Exports the presets; imports no torch.
"""

from distmeta.methods.presets import METHODS, Preset, method
from distmeta.methods.presets.black_box import in_context, lstm, neural_process
from distmeta.methods.presets.gradient import anil, fomaml, maml, meta_sgd, proto_maml, reptile
from distmeta.methods.presets.metric import protonet
from distmeta.methods.presets.transfer import pretrain

__all__ = [
    "METHODS",
    "Preset",
    "anil",
    "fomaml",
    "in_context",
    "lstm",
    "maml",
    "meta_sgd",
    "method",
    "neural_process",
    "pretrain",
    "proto_maml",
    "protonet",
    "reptile",
]
