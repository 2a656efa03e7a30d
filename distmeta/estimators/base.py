"""How the outer signal is computed from adapted tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distmeta.learners.base import Learner
from distmeta.types import Episode, Params

TaskFunction = Callable[[Episode], Any]
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Transforms:
    """What the engine lends to an estimator.

    Attributes:
        over_tasks: Lifts a function of one task's episode to an episode with a task axis T; results are stacked.
        grad: `grad(f)(meta)` for `f(meta) -> (scalar, aux)` returns `(gradient, aux)`.
    """

    over_tasks: Callable[[TaskFunction], TaskFunction]
    grad: Callable[[Callable[[Params], tuple[Tensor, Any]]], Callable[[Params], tuple[Params, Any]]]


class Estimator(ABC):
    """A pure function (learner, meta-parameters, tasks) -> sums over the tasks."""

    @abstractmethod
    def estimate(
        self, learner: Learner, meta: Params, episodes: Episode, transforms: Transforms
    ) -> tuple[Params, Metrics]:
        """The outer signal summed over the T tasks of `episodes`, and metrics summed likewise."""
