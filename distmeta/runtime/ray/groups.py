"""Reports that wait for the others of their group, so that they can be added before they travel to the server.

Groups are those of the server's sum (`distmeta.server.tree`): FAN_IN consecutive shards. A group is complete when all
its shards have been reported; whoever adds it, the bits are the same. A report that is not finite opens its group: its
shards are then reported one by one, since one of them may have to be computed again, or left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distmeta.runtime.wire import ResultWire
from distmeta.server.tree import FAN_IN


@dataclass(frozen=True)
class Held:
    """A result without its gradient, the reference to that, and the node where it lies."""

    result: ResultWire
    grad: Any
    node: str


@dataclass
class Groups:
    """The groups of one call.

    Attributes:
        held: Reports that wait, by group and shard.
        adding: Groups that are being added, and by which worker.
    """

    sizes: Counter[int]
    held: dict[int, dict[int, Held]] = field(default_factory=dict)
    adding: dict[int, int] = field(default_factory=dict)
    opened: set[int] = field(default_factory=set)

    @staticmethod
    def of(shards: Iterable[int]) -> Groups:
        """The groups of these shards, which begin at 0 and have no gaps."""
        return Groups(Counter(shard // FAN_IN for shard in shards))

    def is_open(self, shard: int) -> bool:
        """Whether the group of a shard is reported shard by shard: it is opened, or has no other."""
        return shard // FAN_IN in self.opened or self.sizes[shard // FAN_IN] == 1

    def hold(self, shard: int, held: Held) -> int | None:
        """Keep a report. Returns its group if that is complete now."""
        group = shard // FAN_IN
        waiting = self.held.setdefault(group, {})
        waiting[shard] = held
        return group if len(waiting) == self.sizes[group] else None

    def open(self, shard: int) -> list[Held]:
        """Report the group of a shard one by one from now on. Returns those that have waited."""
        self.opened.add(shard // FAN_IN)
        return self.take(shard // FAN_IN)

    def take(self, group: int) -> list[Held]:
        """The reports of a group in the order of shards; they wait no longer."""
        waiting = self.held.pop(group, {})
        self.adding.pop(group, None)
        return [waiting[shard] for shard in sorted(waiting)]

    def members(self, group: int) -> Sequence[Held]:
        """The reports of a complete group in the order of shards."""
        return [self.held[group][shard] for shard in sorted(self.held[group])]

    def home(self, group: int) -> str:
        """The node where most of a group's gradients lie."""
        nodes = Counter(held.node for held in self.members(group))
        return max(sorted(nodes), key=lambda node: nodes[node])

    def added_by(self, worker: int) -> list[int]:
        """Groups that a worker has been asked to add."""
        return [group for group, adder in self.adding.items() if adder == worker]
