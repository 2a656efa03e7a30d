"""How the outer signal is computed from adapted tasks. A new estimator is a class and a row of `ESTIMATORS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distmeta.config.algorithm import EstimatorConfig
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.estimators.displacement import Displacement

ESTIMATORS: dict[str, Callable[[Any], Estimator]] = {
    "backprop": Backprop,
    "displacement": lambda config: Displacement(),
}


def build_estimator(config: EstimatorConfig) -> Estimator:
    """Make the estimator that a configuration names."""
    return ESTIMATORS[config.kind](config)
