"""Reports that wait until their group is complete, so that it can be summed before it is sent to the driver.

The groups are those of the server's sum (`distmeta.server.tree`): FAN_IN consecutive shards. Whoever sums a group gets
the same bits. A group with a report that is not finite is dissolved: its shards are reported one by one, since one of
them may have to be computed again, or dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from distmeta.runtime.messages import ResultWire
from distmeta.server.tree import FAN_IN


def group_of(shard: int) -> int:
    """Index of a shard's group."""
    return shard // FAN_IN


@dataclass(frozen=True)
class PendingReport:
    """A shard's report that waits for its group.

    Attributes:
        result: The result without its gradient.
        grad: Ray's reference to the gradient.
        node_id: Node whose object store holds the gradient.
    """

    result: ResultWire
    grad: Any
    node_id: str


@dataclass
class ReportGroups:
    """The groups of one call.

    Attributes:
        sizes: Number of shards of each group.
        pending: Reports that wait, by group and shard.
        summed_by: The worker that sums a group, of those that are being summed.
        dissolved: Groups whose shards are reported one by one.
    """

    sizes: Counter[int]
    pending: dict[int, dict[int, PendingReport]] = field(default_factory=dict)
    summed_by: dict[int, int] = field(default_factory=dict)
    dissolved: set[int] = field(default_factory=set)

    @staticmethod
    def of(shards: Iterable[int]) -> ReportGroups:
        """Divide shards into groups. Their indices start at 0 and have no gaps."""
        return ReportGroups(Counter(map(group_of, shards)))

    def is_single(self, shard: int) -> bool:
        """Whether a shard is reported by itself: its group is dissolved, or has no other shard."""
        return group_of(shard) in self.dissolved or self.sizes[group_of(shard)] == 1

    def add(self, shard: int, report: PendingReport) -> bool:
        """Add a report to its group. Returns whether the group is complete."""
        reports = self.pending.setdefault(group_of(shard), {})
        reports[shard] = report
        return len(reports) == self.sizes[group_of(shard)]

    def dissolve(self, shard: int) -> list[PendingReport]:
        """Report the shards of a shard's group one by one from now on. Returns those that have waited."""
        self.dissolved.add(group_of(shard))
        return self.pop(group_of(shard))

    def pop(self, group: int) -> list[PendingReport]:
        """Remove the reports of a group and return them in the order of shards."""
        reports = self.reports(group)
        self.pending.pop(group, None)
        self.summed_by.pop(group, None)
        return reports

    def reports(self, group: int) -> list[PendingReport]:
        """The reports of a group in the order of shards."""
        reports = self.pending.get(group, {})
        return [reports[shard] for shard in sorted(reports)]

    def main_node(self, group: int) -> str:
        """The node that holds most of a group's gradients; of several, the one with the smallest id."""
        nodes = Counter(report.node_id for report in self.reports(group))
        return max(sorted(nodes), key=lambda node_id: nodes[node_id])

    def being_summed_by(self, worker: int) -> list[int]:
        """Groups that a worker was asked to sum."""
        return [group for group, summing in self.summed_by.items() if summing == worker]
