"""Chunks of a shard: tasks that are computed together.

Tasks of texts that differ in size are never in one chunk, and each has its own size in it: its bits depend on the task
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distmeta.core.types import Episode, TextSizes
from distmeta.methods.estimators.base import Moment


@dataclass(frozen=True)
class Chunk:
    """Some of the T tasks of a shard.

    Attributes:
        tasks: Their positions in the shard.
        episodes: Their examples.
    """

    tasks: Sequence[int]
    episodes: Episode

    def moment(self, moment: Moment) -> Moment:
        """The rows of a moment of the shard that belong to these tasks."""
        seeds = None if moment.seeds is None else _rows_of(self.tasks, moment.seeds)
        carry = {name: _rows_of(self.tasks, tensor) for name, tensor in (moment.carry or {}).items()}
        return Moment(moment.version, seeds, carry, moment.extra)


def cut(episodes: Episode, size: int | None) -> list[Chunk]:
    """Cut a shard into chunks of at most `size` tasks; None for no limit."""
    if episodes.sizes is None:
        spans = list(_spans(range(episodes.num_tasks), size))
        return [Chunk(tasks, episodes.map(partial(_rows_of, tasks))) for tasks in spans]
    groups: dict[TextSizes, list[int]] = {}
    for task, sizes in enumerate(episodes.sizes):
        groups.setdefault(sizes, []).append(task)
    return [Chunk(tasks, episodes.select(tasks)) for group in groups.values() for tasks in _spans(group, size)]


def in_order(chunks: Sequence[Chunk], parts: Sequence[Tensor]) -> Tensor:
    """Tensors of the chunks, one row for each task, in the order of the shard: [T, ...]."""
    joined = torch.cat(list(parts))
    tasks = [task for chunk in chunks for task in chunk.tasks]
    if tasks == list(range(len(tasks))):
        return joined
    return joined[torch.tensor(tasks, device=joined.device).argsort()]


def _spans(tasks: Sequence[int], size: int | None) -> Iterator[Sequence[int]]:
    size = size or len(tasks)
    for begin in range(0, len(tasks), size):
        yield tasks[begin : begin + size]


def _rows_of(tasks: Sequence[int], tensor: Tensor) -> Tensor:
    """The rows of tasks; those of a range without a copy."""
    return tensor[tasks.start : tasks.stop] if isinstance(tasks, range) else tensor[list(tasks)]
