"""Methods: a learner (how a task is adapted) x an estimator (how the outer signal is computed).

Presets with the papers' settings are here, `learners/` and `estimators/` beside them. Imports no torch.
"""

from distmeta.methods.presets import METHODS, anil, fomaml, maml, meta_sgd, method, pretrain, protonet, reptile

__all__ = ["METHODS", "anil", "fomaml", "maml", "meta_sgd", "method", "pretrain", "protonet", "reptile"]
