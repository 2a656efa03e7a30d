"""Interface of estimators, and of the operations on tasks that they are written in."""

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
"""Vector-Jacobian product of an operation: from the derivatives by its result to the derivatives by the meta-parameters
and by the state before it. The former are summed over the tasks, and names with a zero derivative may be missing; the
latter are empty where there is no state before."""


class TaskOps(Protocol):
    """A learner's operations on a chunk of T tasks at once: what estimators are written in.

    The engine has several implementations, which differ only in speed and memory. The tensors of adapted states have a
    leading task axis and are detached; they must not be changed. Gradients and metrics are sums over the tasks.

    Attributes:
        num_steps: K, inner steps.
    """

    num_steps: int

    def start(self, meta: Params, episodes: Episode) -> tuple[Fast, Pullback]:
        """The adapted state before the first inner step, and its pullback."""

    def adapt(self, meta: Params, episodes: Episode) -> Fast:
        """The adapted state after all K inner steps."""

    def adapt_recorded(self, meta: Params, episodes: Episode) -> tuple[Fast, list[Pullback]]:
        """As `adapt`, with the pullbacks of its segments (start, inner steps) in the order of the forward pass."""

    def score(self, meta: Params, fast: Fast, episodes: Episode) -> Metrics:
        """Metrics of the query terms (see `outer_loss`). `fast` may be None if no term scores the adapted state."""

    def score_grad(self, meta: Params, fast: Fast, episodes: Episode) -> tuple[Params, Cotangent, Metrics]:
        """Derivatives of the query loss by the meta-parameters and by `fast`, and the metrics (see `score`)."""

    def displacement(self, meta: Params, fast: Fast) -> Params:
        """`meta - fast` (see `Learner.displacement`)."""


class Estimator(ABC):
    """A pure function (meta-parameters, tasks) -> sums over the tasks."""

    @abstractmethod
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode) -> tuple[Params, Metrics]:
        """Compute the outer signal of a chunk of tasks.

        Args:
            ops: The learner's operations.
            meta: Meta-parameters; not changed.
            episodes: T tasks.

        Returns:
            The outer signal, one tensor for each meta-parameter, and the metrics; both summed over the tasks.
        """
