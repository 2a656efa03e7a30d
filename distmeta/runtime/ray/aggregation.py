"""Sums of updates near the workers that made them, so that fewer bytes are sent to the driver.

    report -> waits for its group -> the group is complete -> a worker on the node of most gradients sums it -> result

Under leaders the reports are those of their units, which leaders have summed, and a leader sums a group of these. If a
gradient or a sum is lost, the shards concerned are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ray.exceptions import RayError

from distmeta.core.types import Params
from distmeta.runtime.executor import Result
from distmeta.runtime.messages import ReportWire, ResultWire
from distmeta.runtime.policy.estimates import ShardKey
from distmeta.runtime.ray.actor import LARGE_UPDATE_BYTES
from distmeta.runtime.ray.groups import PendingReport, ReportGroups, group_of
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.runtime.ray.worker_handle import WorkerHandle
from distmeta.runtime.wire import decode_result, decode_value, join_grad
from distmeta.server.tree import FAN_IN


def aggregates_on_nodes(setting: Literal["auto", "driver", "node"], num_nodes: int, params: Params) -> bool:
    """Whether to sum updates of these parameters on the nodes of their workers (`runtime.tolerance.aggregate`)."""
    return num_nodes > 1 and is_large(params) if setting == "auto" else setting == "node"


def is_large(params: Params) -> bool:
    """Whether bytes between nodes count for a snapshot or an update of these parameters."""
    return sum(tensor.nbytes for tensor in params.values()) >= LARGE_UPDATE_BYTES


class Aggregator:
    """Sums the reports of one call in groups.

    Args:
        call_id: Number of the call.
        groups: Its groups.
        worker_group: Who computes the sums.
        requeue: Called with the first shard of a report that has to be computed again.
        on_gradient_lost: Called with holder and first shard of a gradient that cannot be fetched, and the error.
        size: Shards of a report: 1, or FAN_IN for units.
    """

    def __init__(
        self,
        call_id: int,
        groups: ReportGroups,
        worker_group: WorkerGroup,
        requeue: Callable[[int], None],
        on_gradient_lost: Callable[[WorkerHandle, int, RayError], None],
        size: int = 1,
    ) -> None:
        self._call_id, self._groups, self._worker_group, self._size = call_id, groups, worker_group, size
        self._requeue, self._on_gradient_lost = requeue, on_gradient_lost

    def add_report(self, worker: WorkerHandle, result: ResultWire, grad: object) -> list[Result]:
        """Add the first report of a shard or unit. Returns results that need not wait for a sum."""
        item, report = result.shard // self._size, PendingReport(result, grad, worker.node_id, worker.index)
        if not result.value.finite:
            return self._fetch([*self._groups.dissolve(item), report])
        if self._groups.is_single(item):
            return self._fetch([report])
        if self._groups.add(item, report):
            self._request_sum(group_of(item))
        return []

    def dissolve(self, shard: int) -> list[Result]:
        """Have no sum of a shard's group. Returns the results that waited for it."""
        return self._fetch(self._groups.dissolve(shard // self._size))

    def add_sum(self, key: ShardKey, total: ReportWire) -> list[Result]:
        """Take the sum of a group, whose first shard `key` names. Returns its result unless it is out of date."""
        group = self._group_of(key)
        if key[0] != self._call_id or group not in self._groups.summed_by:
            return []
        parts = [report.result for report in self._groups.pop(group)]
        spans = tuple(span for part in parts for span in part.spans or (part.span,))
        wait_s, compute_s = sum(span.data_wait_s for span in spans), sum(span.compute_s for span in spans)
        return [Result(parts[0].shard, decode_value(total), parts[0].worker, wait_s, compute_s, spans)]

    def retry(self, key: ShardKey) -> None:
        """Compute the shards of a group again, since its sum failed: their gradients may be lost with their node."""
        group = self._group_of(key)
        if key[0] == self._call_id and group in self._groups.summed_by:
            self._recompute(group)

    def on_worker_lost(self, worker: int) -> None:
        """Compute the groups again that a worker was asked to sum."""
        for group in self._groups.being_summed_by(worker):
            self._recompute(group)

    def _request_sum(self, group: int) -> None:
        """Ask the least busy worker where most gradients are for the sum of a group."""
        nodes = self._groups.nodes(group)

        def cost(worker: WorkerHandle) -> tuple[int, int, int]:
            busy = len(worker.queue) + len(self._groups.being_summed_by(worker.index))
            return -nodes[worker.node_id], busy, worker.index

        summing = min(self._worker_group.active(), key=cost, default=None)
        if summing is None:
            self._recompute(group)
            return
        self._groups.summed_by[group] = summing.index
        reports = self._groups.reports(group)
        values, grads = [report.result.value for report in reports], [report.grad for report in reports]
        key = self._call_id, group * FAN_IN * self._size
        self._worker_group.submit_sum(summing, key, values, grads)

    def _group_of(self, key: ShardKey) -> int:
        return group_of(key[1] // self._size)

    def _recompute(self, group: int) -> None:
        for report in self._groups.pop(group):
            self._requeue(report.result.shard)

    def _fetch(self, reports: Sequence[PendingReport]) -> list[Result]:
        """Fetch the gradients of reports. Those whose gradient is lost are reported to `on_gradient_lost`."""
        results: list[Result] = []
        for report in reports:
            try:
                grad = self._worker_group.fetch(report.grad)
            except RayError as error:
                holder = self._worker_group.workers[report.holder]
                self._on_gradient_lost(holder, report.result.shard, error)
            else:
                results.append(decode_result(join_grad(report.result, grad)))
        return results
