"""Interface of estimators, and of the operations on tasks that they are written in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Proximal
from distmeta.methods.terms import At, Metrics

State = Any
"""A learner's adapted state together with the running statistics of its network: a pytree that estimators pass on."""
Cotangent = tuple[Tensor | None, ...]
"""Derivatives of a scalar by the tensors of a state, in the order of `torch.utils._pytree`; None is zero."""
Pullback = Callable[[Cotangent], tuple[Params, Cotangent]]
"""Vector-Jacobian product of an operation: from the derivatives by its result to the derivatives by the meta-parameters
and by the state before it. The former are summed over the tasks, and names with a zero derivative may be missing; the
latter are empty where there is no state before."""


class Visit(NamedTuple):
    """A state along adaptation.

    Attributes:
        k: Number of inner steps taken.
        state: The state after them.
        pullback: Pullback of the operation that led here from the visit before; None if the walk is not recorded.
    """

    k: int
    state: State
    pullback: Pullback | None


class Scores(NamedTuple):
    """Scores of T tasks.

    Attributes:
        metrics: [T] each.
        buffers: Running statistics after scoring, [T, ...] each.
    """

    metrics: Metrics
    buffers: Params


class Slopes(NamedTuple):
    """Derivatives of the outer loss, summed over the tasks.

    Attributes:
        by_meta: By the meta-parameters; names with a zero derivative may be missing.
        by_state: By the tensors of the state; empty where no state was scored.
        scores: Scores of the tasks.
    """

    by_meta: Params
    by_state: Cotangent
    scores: Scores


class TaskOps(Protocol):
    """A learner's operations on a chunk of T tasks at once: what estimators are written in.

    The engine has several implementations, which differ only in speed and memory. The tensors of states have a leading
    task axis and are detached; they must not be changed. Gradients are sums over the tasks, scores are not.

    Attributes:
        places: The places (`last`, `each`, `meta`) at which the method has terms.
        buffers: Names of the running statistics among the meta-parameters.
    """

    places: Collection[At]
    buffers: Collection[str]

    def num_steps(self, episodes: Episode) -> int:
        """K, the number of inner steps for these tasks."""

    def walk(
        self,
        meta: Params,
        episodes: Episode,
        *,
        record: bool = False,
        marks: Collection[int] = (),
        state: State = None,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[Visit]:
        """Adapt, visiting the states along the way in order.

        Args:
            meta: Meta-parameters.
            episodes: T tasks.
            record: Whether visits have pullbacks, for a derivative along the whole walk.
            marks: Numbers of inner steps after which there must be a visit. There is always one after each inner step;
                the one before the first step may be left out, to save an operation, unless 0 is a mark.
            state: The state after `first` inner steps to go on from; None starts from the meta-parameters.
            first: See `state`.
            last: Number of inner steps after which to stop; None takes all of them.
        """

    def start(self, meta: Params, episodes: Episode) -> Visit:
        """The state before the first inner step, with its pullback."""

    def linearise(self, meta: Params, episodes: Episode, state: State, k: int) -> Visit:
        """Take inner step `k` (the first one is 0) from a state: the state after it, with the step's pullback.

        The pullback may be called many times: what implicit gradients solve with.
        """

    def score(self, meta: Params, state: State, episodes: Episode, at: At = "last") -> Scores:
        """Score the terms at a place, and with `last` those of the meta-parameters as well."""

    def score_grad(self, meta: Params, state: State, episodes: Episode, at: At = "last") -> Slopes:
        """Differentiate the weighted sum of the terms at a place (see `score`)."""

    def displacement(self, meta: Params, state: State) -> Params:
        """`meta - fast`, summed over the tasks (see `Learner.displacement`)."""

    def proximal(self, state: State) -> Proximal:
        """The inner problem that the inner steps solve (see `Learner.proximal`), with tensors of the state."""

    def apart(self) -> TaskOps:
        """The same for meta-parameters that differ from task to task, [T, ...] each: to walk and to score."""


@dataclass(frozen=True)
class Moment:
    """What an estimate depends on besides meta-parameters and tasks.

    Attributes:
        version: Number of outer steps.
        seeds: int64 [T] seeds of the tasks.
        carry: The estimator's state for these tasks, [T, ...] each; empty before the first step.
        extra: Further vectors that the procedure sends, by name.
    """

    version: int = 0
    seeds: Tensor | None = None
    carry: Params | None = None
    extra: Params | None = None


class Estimate(NamedTuple):
    """The outer signal of a chunk of T tasks.

    Attributes:
        grad: One tensor for each meta-parameter that has a signal, summed over the tasks.
        metrics: [T] each.
        buffers: Running statistics after the tasks, [T, ...] each.
        carry: The estimator's state after the tasks, [T, ...] each.
    """

    grad: Params
    metrics: Metrics
    buffers: Params
    carry: Params


class Estimator(ABC):
    """A pure function (meta-parameters, tasks, moment) -> sums over the tasks.

    Attributes:
        reads_moment: Whether the estimate depends on the moment. If it does not, the whole estimate can be compiled as
            one graph.
    """

    reads_moment: bool = False

    def form(self, moment: Moment) -> Hashable:
        """What differs between estimates that do not run the same operations: those are compiled apart."""
        return None

    @abstractmethod
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        """Compute the outer signal of a chunk of tasks.

        Args:
            ops: The learner's operations.
            meta: Meta-parameters; not changed.
            episodes: T tasks.
            moment: What else it depends on.
        """


def add_params(total: Params, more: Params) -> Params:
    """The sum of two derivatives by the meta-parameters; missing names are zero."""
    return {**total, **{name: total[name] + grad if name in total else grad for name, grad in more.items()}}


def add_cotangents(total: Cotangent, more: Cotangent) -> Cotangent:
    """The sum of two derivatives by a state."""
    return tuple(b if a is None else a if b is None else a + b for a, b in zip(total, more, strict=True))
