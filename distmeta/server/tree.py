"""The sum of many updates, in an order that is fixed by their shards and not by their arrival.

    shards   0 1 ... 15 | 16 17 ... 31 | 32 ...      each group of FAN_IN is added in the order of shards,
    groups       s0     |      s1      | s2          each group of FAN_IN sums in the order of groups,
    ...                  s                           and so on, until one is left

Up to FAN_IN updates this is their plain sum in order. A group adds an update as soon as all before it in the group have
arrived, so adding overlaps arrival; memory holds one sum for each incomplete group and the updates that arrived early.
A group may be added here or near the workers (`sum_group`), with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distmeta.core.packed import Packed
from distmeta.core.types import Params, Update

FAN_IN = 16
"""Number of consecutive updates that are added one after the other. Results are comparable for one value only."""


class BufferPool:
    """Tensors that were summed into and can be reused, which saves mapping and clearing memory."""

    def __init__(self) -> None:
        self._free: dict[str, list[Tensor]] = {}

    def take(self, name: str, like: Tensor) -> Tensor:
        """An uninitialised tensor, shaped as `like`."""
        free = self._free.get(name)
        return free.pop() if free else torch.empty_like(like, memory_format=torch.contiguous_format)

    def give_back(self, name: str, tensor: Tensor) -> None:
        self._free.setdefault(name, []).append(tensor)


_BUFFERS = "buffers/"
"""Prefix that keeps running statistics apart from gradients within a sum."""


class PartialSum:
    """The sum of some updates in the order in which they were added.

    Packed updates of one layout are added block by block: the same bits as tensor by tensor, in fewer operations. A
    parameter, running statistic or metric that some updates lack is summed over those that have it. The first update
    is referenced, not copied; the second is added to it into a buffer of this sum, and the others in place.

    Args:
        first: The first update; it must not change while this sum is in use.
        buffers: Where buffers come from.
    """

    def __init__(self, first: Update, buffers: BufferPool) -> None:
        self._buffers = buffers
        packed = isinstance(first.grad, Packed) and not first.buffers
        self._layout = first.grad.layout if isinstance(first.grad, Packed) and packed else None
        self._tensors: Params = {name: tensor.detach().cpu() for name, tensor in self._parts_of(first).items()}
        self._owned: set[str] = set()
        self._weight = first.weight
        self._metrics = dict(first.metrics)

    def add(self, update: Update) -> None:
        if self._layout is not None and not self._is_packed_alike(update):
            self._unpack()
        self._add(self._parts_of(update), update.weight, update.metrics)

    def _add(self, parts: Params, weight: float, metrics: Mapping[str, float]) -> None:
        for name, tensor in parts.items():
            total, local = self._tensors.get(name), tensor.detach().cpu()
            if total is None:
                self._tensors[name] = local
            elif name in self._owned:
                total.add_(local)
            else:
                self._tensors[name] = torch.add(total, local, out=self._buffers.take(name, total))
                self._owned.add(name)
        self._weight += weight
        for name, value in metrics.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + value

    def absorb(self, other: PartialSum) -> None:
        """Add `other`, consuming it."""
        if self._layout is not other._layout:
            self._unpack()
            other._unpack()
        adopted = {name for name in other._owned if name not in self._tensors}
        self._add(other._tensors, other._weight, other._metrics)
        self._owned |= adopted
        other._owned -= adopted
        other.release()

    def release(self) -> None:
        """Give the buffers back; the sum cannot be used afterwards."""
        for name in self._owned:
            self._buffers.give_back(name, self._tensors[name])
        self._owned.clear()
        self._tensors.clear()

    @property
    def update(self) -> Update:
        """The sum; its tensors are this sum's own."""
        if self._layout is not None:
            return Update(Packed(self._layout, list(self._tensors.values())), self._weight, dict(self._metrics))
        grad = {name: tensor for name, tensor in self._tensors.items() if not name.startswith(_BUFFERS)}
        buffers = {name: tensor for name, tensor in self._tensors.items() if name.startswith(_BUFFERS)}
        named = {name.removeprefix(_BUFFERS): tensor for name, tensor in buffers.items()}
        return Update(grad, self._weight, dict(self._metrics), named)

    def _is_packed_alike(self, update: Update) -> bool:
        return isinstance(update.grad, Packed) and update.grad.layout is self._layout and not update.buffers

    def _parts_of(self, update: Update) -> Params:
        """What is added part by part: blocks by their keys, or tensors by their names."""
        if self._layout is not None and isinstance(update.grad, Packed):
            return dict(zip(self._layout.keys, update.grad.blocks, strict=True))
        return _tensors_of(update)

    def _unpack(self) -> None:
        """Go on tensor by tensor."""
        if self._layout is not None:
            is_owned = bool(self._owned)  # all blocks or none: they are added together
            self._tensors = self._layout.views(list(self._tensors.values()))
            self._owned, self._layout = set(self._tensors) if is_owned else set(), None


def _tensors_of(update: Update) -> Params:
    if not update.buffers:
        return update.grad
    return {**update.grad, **{_BUFFERS + name: tensor for name, tensor in update.buffers.items()}}


@dataclass
class _Group:
    """FAN_IN consecutive items: `num_added` of them are in the sum, later ones wait. None stands for a dropped one."""

    total: PartialSum | None = None
    num_added: int = 0
    waiting: dict[int, PartialSum | None] = field(default_factory=dict)

    def add_waiting(self) -> None:
        """Add all items whose predecessors have been added."""
        while self.num_added in self.waiting:
            item = self.waiting.pop(self.num_added)
            self.num_added += 1
            if self.total is None:
                self.total = item
            elif item is not None:
                self.total.absorb(item)


class Tree:
    """Sums updates that arrive in any order. Not thread-safe."""

    def __init__(self) -> None:
        self._buffers = BufferPool()
        self._levels: list[dict[int, _Group]] = []

    def add(self, shard: int, update: Update | None) -> None:
        """Add the update of a shard that has not been added yet; None if the shard is dropped."""
        self._put(0, shard, None if update is None else PartialSum(update, self._buffers))

    def add_group(self, first: int, count: int, update: Update) -> None:
        """Add the sum of shards `first` to `first + count - 1`, none of which has been added yet (see `sum_group`).

        Raises:
            ValueError: These shards are no group of any level.
        """
        level, size = level_of(first, count)
        index = first // (size * FAN_IN)
        group = self._group(level, index)
        group.total, group.num_added = PartialSum(update, self._buffers), count // size
        self._settle(level, index)

    def total(self) -> Update:
        """The sum of shards 0 to the last, all of which must have been added. The tree is unchanged.

        Its tensors must not be written to, and are valid until the tree changes.
        """
        carry: Update | None = None
        for groups in self._levels:
            for group in groups.values():  # the last of its level: all before it were complete, and are further up
                if group.total is not None and carry is not None:
                    carry = sum_group((group.total.update, carry))
                elif group.total is not None:
                    carry = group.total.update
        return Update({}, 0.0) if carry is None else carry

    def clear(self) -> None:
        """Discard all updates; buffers are kept."""
        for groups in self._levels:
            for group in groups.values():
                for item in (group.total, *group.waiting.values()):
                    if item is not None:
                        item.release()
        self._levels.clear()

    def _group(self, level: int, index: int) -> _Group:
        while len(self._levels) <= level:
            self._levels.append({})
        return self._levels[level].setdefault(index, _Group())

    def _put(self, level: int, index: int, item: PartialSum | None) -> None:
        group_index, place = divmod(index, FAN_IN)
        self._group(level, group_index).waiting[place] = item
        self._settle(level, group_index)

    def _settle(self, level: int, index: int) -> None:
        """Add what can be added to a group, and a complete group to the next level."""
        group = self._levels[level][index]
        group.add_waiting()
        if group.num_added == FAN_IN:
            del self._levels[level][index]
            self._put(level + 1, index, group.total)


def level_of(first: int, count: int) -> tuple[int, int]:
    """The level of the group that `count` shards from `first` on are, or are the beginning of.

    Returns:
        The level, 0 for groups of shards, and the number of shards of each of its items.

    Raises:
        ValueError: They are no group.
    """
    level, size = 0, 1
    while count > size * FAN_IN:
        level, size = level + 1, size * FAN_IN
    if first < 0 or count < 1 or first % (size * FAN_IN) or count % size:
        raise ValueError(f"shards {first} to {first + count - 1} are no group of {FAN_IN}, nor the first of one")
    return level, size


def sum_group(updates: Iterable[Update]) -> Update:
    """The sum of a group's updates in the order given; of two or more, in new memory.

    Args:
        updates: At most FAN_IN, of consecutive shards or groups, the first of them a multiple of FAN_IN.
    """
    total: PartialSum | None = None
    buffers = BufferPool()
    for update in updates:
        if total is None:
            total = PartialSum(update, buffers)
        else:
            total.add(update)
    return Update({}, 0.0) if total is None else total.update
