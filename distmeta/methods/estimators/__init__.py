"""Estimators compute the outer signal from adapted tasks. A new one is a class and a row of `ESTIMATORS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distmeta.config.estimators import EstimatorConfig
from distmeta.core.code import instance_of
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.estimators.displacement import Displacement
from distmeta.methods.estimators.evolution import Evolution
from distmeta.methods.estimators.implicit import Implicit

ESTIMATORS: dict[str, Callable[[Any], Estimator]] = {
    "backprop": Backprop,
    "displacement": lambda config: Displacement(),
    "implicit": Implicit,
    "evolution": Evolution,
    "python": lambda config: instance_of(Estimator, config, "algorithm.estimator"),
}


def build_estimator(config: EstimatorConfig) -> Estimator:
    """Build an estimator from its configuration."""
    return ESTIMATORS[config.kind](config)
