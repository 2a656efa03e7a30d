"""Methods: a learner (how a task is adapted) combined with an estimator (how the outer signal is computed).

Exports the presets; imports no torch.
"""

from distmeta.methods.presets import METHODS, Preset, method
from distmeta.methods.presets.architecture import darts
from distmeta.methods.presets.black_box import in_context, lstm, neural_process
from distmeta.methods.presets.continual import anml, oml
from distmeta.methods.presets.domains import dann, deep_coral
from distmeta.methods.presets.gradient import anil, fomaml, label_words, maml, meta_sgd, proto_maml, reptile
from distmeta.methods.presets.implicit import imaml, imaml_hf
from distmeta.methods.presets.inner import boil, cavia, maml_pp
from distmeta.methods.presets.inner_problem import hyperparameters, learned_loss, reweight
from distmeta.methods.presets.metric import knn, matching, protonet, r2d2
from distmeta.methods.presets.optimizers import evolved_optimizer, learned_optimizer
from distmeta.methods.presets.prediction import film, weight_generator
from distmeta.methods.presets.reinforcement import anil_rl, fomaml_rl, maml_rl, rl2
from distmeta.methods.presets.reuse import multitask, nil, nil_head
from distmeta.methods.presets.test_time import bn_adapt, tent, ttt
from distmeta.methods.presets.transfer import (
    auto_rgn,
    fine_tuning,
    joint,
    l2sp,
    linear_probe,
    lp_ft,
    merlin,
    pretrain,
    surgical,
    target_only,
)

__all__ = [
    "METHODS",
    "Preset",
    "anil",
    "anil_rl",
    "anml",
    "auto_rgn",
    "bn_adapt",
    "boil",
    "cavia",
    "dann",
    "darts",
    "deep_coral",
    "evolved_optimizer",
    "film",
    "fine_tuning",
    "fomaml",
    "fomaml_rl",
    "hyperparameters",
    "imaml",
    "imaml_hf",
    "in_context",
    "joint",
    "knn",
    "l2sp",
    "label_words",
    "learned_loss",
    "learned_optimizer",
    "linear_probe",
    "lp_ft",
    "lstm",
    "maml",
    "maml_pp",
    "maml_rl",
    "matching",
    "merlin",
    "meta_sgd",
    "method",
    "multitask",
    "neural_process",
    "nil",
    "nil_head",
    "oml",
    "pretrain",
    "proto_maml",
    "protonet",
    "r2d2",
    "reptile",
    "reweight",
    "rl2",
    "surgical",
    "target_only",
    "tent",
    "ttt",
    "weight_generator",
]
