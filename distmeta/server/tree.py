"""The sum of many updates, in an order that is fixed by their shards and not by their arrival.

    shards   0 1 ... 15 | 16 17 ... 31 | 32 ...      each group of FAN_IN is added in order of shards,
    groups       s0     |      s1      | s2          each group of FAN_IN sums in order of groups,
    ...                  s                           and so on, until one is left

Up to FAN_IN updates this is their plain sum in order. A group takes an update as soon as all before it in the group are
there, so adding overlaps arrival; what is held is one sum for each open group and the updates that came before their
turn. Whoever adds a group, here or near the workers (`sum_group`), gets the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distmeta.core.types import Params, Update

FAN_IN = 16
"""How many consecutive updates are added one after the other. It decides bits: results are comparable for one value."""


class Memory:
    """Tensors that were summed into and are free again: memory that the system need not clear and map anew."""

    def __init__(self) -> None:
        self._free: dict[str, list[Tensor]] = {}

    def take(self, name: str, like: Tensor) -> Tensor:
        """A tensor to write to, shaped as `like`."""
        free = self._free.get(name)
        return free.pop() if free else torch.empty_like(like, memory_format=torch.contiguous_format)

    def give(self, name: str, tensor: Tensor) -> None:
        """Give back what was taken for `name`."""
        self._free.setdefault(name, []).append(tensor)


class PartialSum:
    """The sum of some updates in the order in which they were added.

    A parameter or metric that some updates lack is summed over those that have it. The first update is referred to, not
    copied; the second is added to it into memory of this sum's own, and the others in place.

    Args:
        first: The first update; it must not change while this sum is in use.
        memory: Where to take memory from.
    """

    def __init__(self, first: Update, memory: Memory) -> None:
        self._memory = memory
        self._grads: Params = {name: grad.detach().cpu() for name, grad in first.grad.items()}
        self._own: set[str] = set()
        self._weight = first.weight
        self._metrics = dict(first.metrics)

    def add(self, update: Update) -> None:
        """Add an update."""
        for name, grad in update.grad.items():
            held, local = self._grads.get(name), grad.detach().cpu()
            if held is None:
                self._grads[name] = local
            elif name in self._own:
                held.add_(local)
            else:
                self._grads[name] = torch.add(held, local, out=self._memory.take(name, held))
                self._own.add(name)
        self._weight += update.weight
        for name, value in update.metrics.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + value

    def absorb(self, other: PartialSum) -> None:
        """Add another sum, which is of no use afterwards; its memory is kept for later."""
        adopted = {name for name in other._own if name not in self._grads}
        self.add(other.update)
        self._own |= adopted
        other._own -= adopted
        other.release()

    def release(self) -> None:
        """Give the memory back; the sum is of no use afterwards."""
        for name in self._own:
            self._memory.give(name, self._grads[name])
        self._own.clear()
        self._grads.clear()

    @property
    def update(self) -> Update:
        """The sum, of the memory that is added to."""
        return Update(dict(self._grads), self._weight, dict(self._metrics))


@dataclass
class _Group:
    """FAN_IN consecutive items: `taken` of them are in the sum, later ones wait. None stands for a dropped one."""

    total: PartialSum | None = None
    taken: int = 0
    waiting: dict[int, PartialSum | None] = field(default_factory=dict)

    def take(self) -> None:
        """Add what has its turn."""
        while self.taken in self.waiting:
            item = self.waiting.pop(self.taken)
            self.taken += 1
            if self.total is None:
                self.total = item
            elif item is not None:
                self.total.absorb(item)


class Tree:
    """Sums updates that arrive in any order. Not to be used from several threads at once."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._levels: list[dict[int, _Group]] = []

    def add(self, shard: int, update: Update | None) -> None:
        """Take the update of a shard that is not there yet; None if the sum goes without it."""
        self._put(0, shard, None if update is None else PartialSum(update, self._memory))

    def add_group(self, first: int, count: int, update: Update) -> None:
        """Take the sum of shards `first` to `first + count - 1`, none of which is there yet (see `sum_group`).

        Raises:
            ValueError: These shards are no group.
        """
        check_group(first, count)
        group = self._group(0, first // FAN_IN)
        group.total, group.taken = PartialSum(update, self._memory), count
        self._settle(0, first // FAN_IN)

    def total(self) -> Update:
        """The sum of shards 0 to the last, all of which must be there. The tree is as before.

        Its tensors are for reading, and good until the tree is changed.
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
        """Forget all updates, keep the memory."""
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
        """Add what can be added to a group; a complete one goes further up."""
        group = self._levels[level][index]
        group.take()
        if group.taken == FAN_IN:
            del self._levels[level][index]
            self._put(level + 1, index, group.total)


def check_group(first: int, count: int) -> None:
    """See that `count` shards from `first` on are a group, or the first of one.

    Raises:
        ValueError: They are not.
    """
    if first < 0 or first % FAN_IN or not 1 <= count <= FAN_IN:
        raise ValueError(f"shards {first} to {first + count - 1} are no group of {FAN_IN}, nor the first of one")


def sum_group(updates: Iterable[Update]) -> Update:
    """The sum of a group's updates in the order given, in memory of its own where there are two or more.

    Args:
        updates: At most FAN_IN, of consecutive shards, the first of them a multiple of FAN_IN.
    """
    total: PartialSum | None = None
    memory = Memory()
    for update in updates:
        if total is None:
            total = PartialSum(update, memory)
        else:
            total.add(update)
    return Update({}, 0.0) if total is None else total.update
