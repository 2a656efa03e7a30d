"""Computes the update of one shard of T tasks on one device.

Strategies, all computing the same sums:
    loop            one task at a time, eagerly
    vmap            the tasks of a chunk at once, eagerly (`torch.vmap`)
    compiled        one task at a time, as native code
    compiled_vmap   the tasks of a chunk at once, as native code

The configuration sets the chunk size. Lanes compute the chunks, which are summed in order: the result depends neither
on the worker nor on the number of lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from distmeta.config import EngineConfig
from distmeta.core.types import Episode, Params, Update
from distmeta.engine.chunks import cut, in_order
from distmeta.engine.graphs.compiled import CompiledEstimator, CompiledOps, GraphCache, canonical
from distmeta.engine.lanes import Lanes
from distmeta.engine.ops import AutogradOps, EagerOps
from distmeta.engine.precision import library_precision, products
from distmeta.methods.estimators.base import Estimate, Estimator, Moment
from distmeta.methods.learners.base import Learner
from distmeta.methods.terms import OuterTerm

Out = TypeVar("Out")
ONE_TASK_CHUNKS = frozenset({"auto", "measured", "loop", "compiled"})
"""Strategies whose chunks have one task."""
COMPILED = {"compiled": "loop", "compiled_vmap": "vmap"}
"""Compiled strategies, and the lift that each of them traces."""


class Engine:
    """Computes updates of shards.

    Args:
        learner: How a task is adapted.
        estimator: How the outer signal is computed from adapted tasks.
        terms: The outer loss.
        config: Strategy, chunk, memory, matmul. `auto` and `measured` run as `loop` until a strategy has been chosen.
        lanes: Threads that compute chunks, or their number.
    """

    def __init__(
        self,
        learner: Learner,
        estimator: Estimator,
        terms: Sequence[OuterTerm],
        config: EngineConfig,
        lanes: Lanes | int = 1,
    ) -> None:
        self._chunk, self._matmul, self._fixed = chunk_of(config), config.matmul, learner.fixed
        self._lanes = lanes if isinstance(lanes, Lanes) else Lanes(lanes, config.threads_per_chunk)
        lift = lift_of(config.strategy)
        self._ops = EagerOps(learner, lift, terms, config.memory)
        self._differentiable = AutogradOps(learner, lift, terms, "unrolled")
        self._is_compiled = is_compiled(config)
        if self._is_compiled:
            graphs = GraphCache(self._lanes.count, config.matmul)
            compiled_ops = CompiledOps(learner, lift, terms, config.memory, graphs)
            unrolled = EagerOps(learner, lift, terms, "unrolled")
            estimator = CompiledEstimator(estimator, unrolled, compiled_ops, graphs)
        self._estimator = estimator
        self._prepared: set[tuple[Any, ...]] = set()

    def update(self, meta: Params, episodes: Episode, moment: Moment | None = None) -> tuple[Update, Params]:
        """Compute the update of a shard.

        Args:
            meta: Meta-parameters, and running statistics; not changed.
            episodes: T tasks.
            moment: What else the estimate depends on; its tensors have T rows. None: the first step of these tasks.

        Returns:
            Outer signal, metrics and running statistics, summed over the T tasks, with weight T; and the estimator's
            state after the tasks, [T, ...] each.
        """
        if self._is_compiled:
            meta, episodes = canonical(meta), episodes.map(lambda tensor: tensor.contiguous())
        with library_precision(self._matmul):
            return self._update(meta, episodes, moment or Moment(seeds=episodes.seeds))

    def each_chunk(
        self, function: Callable[[EagerOps, Episode], Out], episodes: Episode, *, differentiable: bool = False
    ) -> list[Out]:
        """What a function gives for each chunk of a shard, in their order.

        Args:
            function: Gets the learner's operations, and tasks that are computed together.
            episodes: T tasks.
            differentiable: Whether the operations are part of the function's autograd graph.
        """
        ops = self._differentiable if differentiable else self._ops
        chunks = cut(episodes, self._chunk or self._lanes.chunk(episodes.num_tasks))

        def of_chunk(tasks: Episode) -> Out:
            with products(self._matmul):
                return function(ops, tasks)

        with library_precision(self._matmul):
            return self._lanes.map(of_chunk, [chunk.episodes for chunk in chunks])

    def close(self) -> None:
        """End the lanes' threads."""
        self._lanes.close()

    def _update(self, meta: Params, episodes: Episode, moment: Moment) -> tuple[Update, Params]:
        chunks = cut(episodes, self._chunk or self._lanes.chunk(episodes.num_tasks))
        parts = [(chunk.episodes, chunk.moment(moment)) for chunk in chunks]
        self._prepare(meta, parts)
        stream = self._lanes.stream(lambda part: self._estimate(meta, *part), parts)
        first = next(stream)
        grad, buffers, estimates = first.grad, _summed(first.buffers), [first]
        for estimate in stream:
            grad = {name: tensor + estimate.grad[name] for name, tensor in grad.items()}
            buffers = {name: tensor + estimate.buffers[name].sum(0) for name, tensor in buffers.items()}
            estimates.append(estimate._replace(grad={}))  # frees the gradient as soon as it is added
        grad = {name: tensor.contiguous() for name, tensor in grad.items() if name not in self._fixed}
        carry = {name: in_order(chunks, [each.carry[name] for each in estimates]) for name in estimates[0].carry}
        return Update(grad, float(episodes.num_tasks), _sum_metrics(estimates), buffers), carry

    def _prepare(self, meta: Params, parts: Sequence[tuple[Episode, Moment]]) -> None:
        """Compile for new shapes before the lanes start: torch's tracing is not thread-safe."""
        for part, moment in parts if self._is_compiled else ():
            key = (self._estimator.form(moment), part.form, *(tensor.shape for tensor in part.tensors()))
            if key not in self._prepared:
                self._estimate(meta, part, moment)
                self._prepared.add(key)

    def _estimate(self, meta: Params, chunk: Episode, moment: Moment) -> Estimate:
        if self._is_compiled:  # the policy was applied when the graph was traced
            return self._estimator.estimate(self._ops, meta, chunk, moment)
        with products(self._matmul):
            return self._estimator.estimate(self._ops, meta, chunk, moment)


def _summed(tensors: Params) -> Params:
    return {name: tensor.sum(0) for name, tensor in tensors.items()}


def _sum_metrics(estimates: Sequence[Estimate]) -> dict[str, float]:
    """Metrics summed over the tasks, one after the other in float64.

    All of them in one transfer: on a GPU, reading a number waits for all operations before it.
    """
    names = list(estimates[0].metrics)
    values = torch.cat([torch.stack([each.metrics[name] for name in names]) for each in estimates], 1).double()
    return dict(zip(names, torch.cumsum(values, 1)[:, -1].tolist(), strict=True))


def possible_strategies(limits: Mapping[str, str]) -> tuple[str, ...]:
    """The strategies that a network's limits allow (see `Backbone.limits`)."""
    return tuple(
        strategy
        for strategy in ("loop", "vmap", *COMPILED)
        if not ("vmap" in limits and lift_of(strategy) == "vmap") and not ("compile" in limits and strategy in COMPILED)
    )


def is_compiled(config: EngineConfig) -> bool:
    """Whether a strategy is compiled."""
    return config.strategy in COMPILED


def make_ops(learner: Learner, terms: Sequence[OuterTerm], config: EngineConfig, lanes: int) -> EagerOps:
    """The operations of a strategy without derivatives, for scoring: predictions are those of evaluation."""
    lift = lift_of(config.strategy)
    if is_compiled(config):
        return CompiledOps(learner, lift, terms, "flat", GraphCache(lanes, config.matmul), training=False)
    return EagerOps(learner, lift, terms, "flat", training=False)


def one_by_one(learner: Learner, terms: Sequence[OuterTerm] = (), *, differentiable: bool = False) -> EagerOps:
    """Eager operations on one task at a time (T = 1), as at evaluation.

    Args:
        learner: Whose operations.
        terms: What is scored.
        differentiable: Keep the autograd graph of what is computed.
    """
    kind = AutogradOps if differentiable else EagerOps
    return kind(learner, "loop", terms, "flat", training=False)


def lift_of(strategy: str) -> str:
    """The lift of a strategy (see `distmeta.engine.lifts`); that of `auto` is `loop`."""
    return {**COMPILED, "auto": "loop", "measured": "loop"}.get(strategy, strategy)


def chunk_of(config: EngineConfig) -> int | None:
    """Number of tasks in a chunk; None for the whole shard."""
    return 1 if config.strategy in ONE_TASK_CHUNKS else config.chunk
