"""One shard of T tasks on one device: how it is computed, within which memory.

Strategies, all computing the same sums:
    loop            one task at a time
    vmap            `torch.vmap` over the tasks of a chunk
    compiled        one task at a time, as native code
    compiled_vmap   the tasks of a chunk at once, as native code

Chunks are cut by the configuration, computed by as many lanes as the worker has threads, and summed in order: the
result depends neither on where the shard is computed nor on the number of lanes.
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

UNROLLED_STEPS = 16
ONE_BY_ONE = frozenset({"auto", "loop", "compiled"})
COMPILED = {"compiled": "loop", "compiled_vmap": "vmap"}
"""Compiled strategies and how they lift functions of one task."""


class Engine:
    """Computes updates of shards.

    Args:
        learner: How a task is adapted.
        estimator: How the outer signal is made of it.
        config: Strategy (`auto` is a loop here: see `distmeta.engine.auto`), chunk, memory.
        lanes: Chunks in flight.
    """

    def __init__(self, learner: Learner, estimator: Estimator, config: EngineConfig, lanes: int = 1) -> None:
        self._chunk, self._matmul = chunk_of(config), config.matmul
        self._lanes = Lanes(lanes)
        flat, lift = memory_of(config, learner) == "flat", lift_of(config.strategy)
        self._ops: TaskOps = EagerOps(learner, lift, flat=flat)
        self._is_compiled = config.strategy in COMPILED
        if self._is_compiled:
            estimator = CompiledEstimator(learner, estimator, lift, lanes, flat=flat, matmul=config.matmul)
        self._estimator = estimator
        self._prepared: set[tuple[Any, ...]] = set()

    def update(self, meta: Params, episodes: Episode) -> Update:
        """The update of a shard.

        Args:
            meta: Meta-parameters; not changed.
            episodes: T tasks.

        Returns:
            Sums over the T tasks, of weight T.
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
        found = self._lanes.map(lambda chunk: self._estimate(meta, chunk), parts)
        names = list(found[0][1])
        # All metrics at once: on a GPU, reading a number waits for everything before it.
        values = torch.stack([torch.stack([metrics[name] for name in names]) for _, metrics in found]).double()
        sums = dict(zip(names, torch.cumsum(values, 0)[-1].tolist(), strict=True))
        total = found[0][0]
        for grad, _ in found[1:]:
            total = {name: tensor + grad[name] for name, tensor in total.items()}
        return Update({name: tensor.contiguous() for name, tensor in total.items()}, float(episodes.num_tasks), sums)

    def _prepare(self, meta: Params, parts: list[Episode]) -> None:
        """Compile for shapes not seen before, ahead of the lanes: torch traces one function at a time in a process."""
        for part in parts if self._is_compiled else ():
            key = (part.form, *(tensor.shape for tensor in part.tensors()))
            if key not in self._prepared:
                self._estimate(meta, part)
                self._prepared.add(key)

    def _estimate(self, meta: Params, chunk: Episode) -> tuple[Params, Metrics]:
        if self._is_compiled:  # the graph itself says how its products are computed
            return self._estimator.estimate(self._ops, meta, chunk)
        with products(self._matmul):
            return self._estimator.estimate(self._ops, meta, chunk)


def lift_of(strategy: str) -> str:
    """How a strategy takes functions of one task to many (see `LIFTS`); `auto` before the choice is a loop."""
    return {**COMPILED, "auto": "loop"}.get(strategy, strategy)


def memory_of(config: EngineConfig, learner: Learner) -> Literal["unrolled", "flat"]:
    """`auto` decided by the number of inner steps, which is the same on every machine."""
    if config.memory == "auto":
        return "unrolled" if learner.num_steps <= UNROLLED_STEPS else "flat"
    return config.memory


def chunk_of(config: EngineConfig) -> int | None:
    """Tasks of a chunk; None for the whole shard."""
    return 1 if config.strategy in ONE_BY_ONE else config.chunk


def chunks(episodes: Episode, size: int | None) -> Iterator[Episode]:
    """Cut the task axis into pieces of `size` tasks, the last one possibly smaller."""
    count = episodes.num_tasks
    size = size or count
    for begin in range(0, count, size):
        end = min(begin + size, count)
        yield episodes.map(lambda tensor, begin=begin, end=end: tensor[begin:end])  # type: ignore[misc]
