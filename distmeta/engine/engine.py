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

from collections.abc import Iterator
from typing import Any, Literal

import torch

from distmeta.config import EngineConfig
from distmeta.core.types import Episode, Params, Update
from distmeta.engine.graphs.compiled import CompiledEstimator, canonical
from distmeta.engine.lanes import Lanes
from distmeta.engine.ops import EagerOps
from distmeta.engine.precision import library_precision, products
from distmeta.methods.estimators.base import Estimator, Metrics, TaskOps
from distmeta.methods.learners.base import Learner

MAX_UNROLLED_STEPS = 16
"""`memory = auto` stores the autograd graph of all inner steps up to this number of steps."""
ONE_TASK_CHUNKS = frozenset({"auto", "measured", "loop", "compiled"})
"""Strategies whose chunks have one task."""
COMPILED = {"compiled": "loop", "compiled_vmap": "vmap"}
"""Compiled strategies, and the lift that each of them traces."""


class Engine:
    """Computes updates of shards.

    Args:
        learner: How a task is adapted.
        estimator: How the outer signal is computed from adapted tasks.
        config: Strategy, chunk, memory, matmul. `auto` and `measured` run as `loop` until a strategy has been chosen.
        lanes: Number of threads that compute chunks.
    """

    def __init__(self, learner: Learner, estimator: Estimator, config: EngineConfig, lanes: int = 1) -> None:
        self._chunk, self._matmul = chunk_of(config), config.matmul
        self._lanes = Lanes(lanes)
        recompute, lift = memory_of(config, learner) == "flat", lift_of(config.strategy)
        self._ops: TaskOps = EagerOps(learner, lift, recompute=recompute)
        self._is_compiled = config.strategy in COMPILED
        if self._is_compiled:
            estimator = CompiledEstimator(learner, estimator, lift, lanes, recompute=recompute, matmul=config.matmul)
        self._estimator = estimator
        self._prepared: set[tuple[Any, ...]] = set()

    def update(self, meta: Params, episodes: Episode) -> Update:
        """Compute the update of a shard.

        Args:
            meta: Meta-parameters; not changed.
            episodes: T tasks.

        Returns:
            Outer signal and metrics, summed over the T tasks, with weight T.
        """
        if self._is_compiled:
            meta, episodes = canonical(meta), episodes.map(lambda tensor: tensor.contiguous())
        with library_precision(self._matmul):
            return self._update(meta, episodes)

    def close(self) -> None:
        """End the lanes' threads."""
        self._lanes.close()

    def _update(self, meta: Params, episodes: Episode) -> Update:
        parts = list(chunks(episodes, self._chunk))
        self._prepare(meta, parts)
        estimates = self._lanes.map(lambda chunk: self._estimate(meta, chunk), parts)
        names = list(estimates[0][1])
        # All metrics in one transfer: on a GPU, reading a number waits for all operations before it.
        values = torch.stack([torch.stack([metrics[name] for name in names]) for _, metrics in estimates]).double()
        sums = dict(zip(names, torch.cumsum(values, 0)[-1].tolist(), strict=True))
        total = estimates[0][0]
        for grad, _ in estimates[1:]:
            total = {name: tensor + grad[name] for name, tensor in total.items()}
        return Update({name: tensor.contiguous() for name, tensor in total.items()}, float(episodes.num_tasks), sums)

    def _prepare(self, meta: Params, parts: list[Episode]) -> None:
        """Compile for new shapes before the lanes start: torch's tracing is not thread-safe."""
        for part in parts if self._is_compiled else ():
            key = (part.form, *(tensor.shape for tensor in part.tensors()))
            if key not in self._prepared:
                self._estimate(meta, part)
                self._prepared.add(key)

    def _estimate(self, meta: Params, chunk: Episode) -> tuple[Params, Metrics]:
        if self._is_compiled:  # the policy was applied when the graph was traced
            return self._estimator.estimate(self._ops, meta, chunk)
        with products(self._matmul):
            return self._estimator.estimate(self._ops, meta, chunk)


def lift_of(strategy: str) -> str:
    """The lift of a strategy (see `distmeta.engine.lifts`); that of `auto` is `loop`."""
    return {**COMPILED, "auto": "loop", "measured": "loop"}.get(strategy, strategy)


def memory_of(config: EngineConfig, learner: Learner) -> Literal["unrolled", "flat"]:
    """`engine.memory`, with `auto` resolved by the number of inner steps, so that it is equal on every machine."""
    if config.memory == "auto":
        return "unrolled" if learner.num_steps <= MAX_UNROLLED_STEPS else "flat"
    return config.memory


def chunk_of(config: EngineConfig) -> int | None:
    """Number of tasks in a chunk; None for the whole shard."""
    return 1 if config.strategy in ONE_TASK_CHUNKS else config.chunk


def chunks(episodes: Episode, size: int | None) -> Iterator[Episode]:
    """Split a shard into chunks of `size` tasks; the last one may be smaller."""
    count = episodes.num_tasks
    size = size or count
    for begin in range(0, count, size):
        end = min(begin + size, count)
        yield episodes.map(lambda tensor, begin=begin, end=end: tensor[begin:end])  # type: ignore[misc]
