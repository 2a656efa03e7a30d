"""How the outer signal is computed from adapted tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Fast

Metrics = dict[str, Tensor]
Cotangent = tuple[Tensor | None, ...]
"""Derivatives of a scalar by the tensors of an adapted state, in the order of `torch.utils._pytree`; None is zero."""
Pullback = Callable[[Cotangent], tuple[Params, Cotangent]]
"""From the derivatives by an operation's result to those by the meta-parameters (names with a zero one may be missing),
summed over the tasks, and by the state that it started from (empty where it started from none)."""


class TaskOps(Protocol):
    """What estimators are written in: a learner's operations on a chunk of T tasks at once.

    The engine has several implementations, which differ in speed and memory alone. Adapted states have a leading task
    axis on every tensor and no history; they must not be changed. Parameters and metrics that come out are sums over
    the tasks.

    Attributes:
        num_steps: K, inner steps.
    """

    num_steps: int

    def start(self, meta: Params, episodes: Episode) -> tuple[Fast, Pullback]:
        """The state before the first step, and its pullback."""

    def adapt(self, meta: Params, episodes: Episode) -> Fast:
        """The state after all K steps."""

    def adapt_recorded(self, meta: Params, episodes: Episode) -> tuple[Fast, list[Pullback]]:
        """The same, with the pullbacks of its parts in the order in which they were run."""

    def score(self, meta: Params, fast: Fast, episodes: Episode) -> Metrics:
        """Metrics of the query terms (see `outer_loss`). `fast` is None where no term asks for an adapted state."""

    def score_grad(self, meta: Params, fast: Fast, episodes: Episode) -> tuple[Params, Cotangent, Metrics]:
        """Derivatives of the query loss by the meta-parameters and by `fast`, and the metrics."""

    def displacement(self, meta: Params, fast: Fast) -> Params:
        """How far adaptation moved (see `Learner.displacement`)."""


class Estimator(ABC):
    """A pure function (meta-parameters, tasks) -> sums over the tasks."""

    @abstractmethod
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode) -> tuple[Params, Metrics]:
        """The outer signal summed over the T tasks of `episodes`, and metrics summed likewise."""
