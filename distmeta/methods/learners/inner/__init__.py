"""Meta-parameters that act on the inner problem. A new kind is a class and a row of `INNER`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distmeta.methods.learners.inner.base import InnerPart
from distmeta.methods.learners.inner.hyperparameters import Hyperparameters
from distmeta.methods.learners.inner.loss import InnerLoss
from distmeta.methods.learners.inner.weights import ExampleWeights

Groups = dict[str, tuple[str, ...]]
INNER: dict[str, Callable[[Any, Groups, str], InnerPart]] = {
    "hyperparameters": Hyperparameters,
    "loss": lambda config, groups, where: InnerLoss(config),
    "weights": lambda config, groups, where: ExampleWeights(config),
}
