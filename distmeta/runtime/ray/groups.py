"""Reports that wait until their group is complete, so that it can be summed before it is sent to the driver.

The groups are those of the server's sum (`distmeta.server.tree`): FAN_IN consecutive shards, or FAN_IN units of so many
that leaders report. Whoever sums a group gets the same bits. A group with a report that is not finite is dissolved: its
reports are taken one by one, since a shard may have to be computed again, or dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from distmeta.runtime.messages import ResultWire
from distmeta.server.tree import FAN_IN


def group_of(item: int) -> int:
    """Index of the group of a shard or unit."""
    return item // FAN_IN


@dataclass(frozen=True)
class PendingReport:
    """A report that waits for its group.

    Attributes:
        result: The result without its gradient.
        grad: Ray's reference to the gradient.
        node_id: Node whose object store holds the gradient.
        holder: The worker or leader that has put it there.
    """

    result: ResultWire
    grad: Any
    node_id: str
    holder: int = 0


@dataclass
class ReportGroups:
    """The groups of one call.

    Attributes:
        sizes: Number of shards, or units, of each group.
        pending: Reports that wait, by group and item.
        summed_by: The worker or leader that sums a group, of those that are being summed.
        dissolved: Groups whose reports are taken one by one.
    """

    sizes: Counter[int]
    pending: dict[int, dict[int, PendingReport]] = field(default_factory=dict)
    summed_by: dict[int, int] = field(default_factory=dict)
    dissolved: set[int] = field(default_factory=set)

    @staticmethod
    def of(items: Iterable[int]) -> ReportGroups:
        """Divide shards or units into groups. Their indices start at 0 and have no gaps."""
        return ReportGroups(Counter(map(group_of, items)))

    def is_single(self, item: int) -> bool:
        """Whether a report is taken by itself: its group is dissolved, or has no other."""
        return group_of(item) in self.dissolved or self.sizes[group_of(item)] == 1

    def add(self, item: int, report: PendingReport) -> bool:
        """Add a report to its group. Returns whether the group is complete."""
        reports = self.pending.setdefault(group_of(item), {})
        reports[item] = report
        return len(reports) == self.sizes[group_of(item)]

    def dissolve(self, item: int) -> list[PendingReport]:
        """Take the reports of an item's group one by one from now on. Returns those that have waited."""
        self.dissolved.add(group_of(item))
        return self.pop(group_of(item))

    def pop(self, group: int) -> list[PendingReport]:
        """Remove the reports of a group and return them in their order."""
        reports = self.reports(group)
        self.pending.pop(group, None)
        self.summed_by.pop(group, None)
        return reports

    def reports(self, group: int) -> list[PendingReport]:
        """The reports of a group in their order."""
        reports = self.pending.get(group, {})
        return [reports[item] for item in sorted(reports)]

    def nodes(self, group: int) -> Counter[str]:
        """How many of a group's gradients each node holds."""
        return Counter(report.node_id for report in self.reports(group))

    def being_summed_by(self, worker: int) -> list[int]:
        """Groups that a worker or leader was asked to sum."""
        return [group for group, summing in self.summed_by.items() if summing == worker]
