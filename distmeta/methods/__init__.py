"""Methods: a learner (how a task is adapted) combined with an estimator (how the outer signal is computed).

Exports the presets; imports no torch.
"""

from distmeta.methods.presets import (
    METHODS,
    anil,
    fomaml,
    label_words,
    maml,
    meta_sgd,
    method,
    pretrain,
    proto_maml,
    protonet,
    reptile,
)

__all__ = [
    "METHODS",
    "anil",
    "fomaml",
    "label_words",
    "maml",
    "meta_sgd",
    "method",
    "pretrain",
    "proto_maml",
    "protonet",
    "reptile",
]
