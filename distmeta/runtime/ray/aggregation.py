"""Sums of updates near the workers that made them, so that fewer bytes are sent to the driver.

    report -> waits for its group -> the group is complete -> a worker on the node of most gradients sums it -> result

If a gradient or a sum is lost, the shards concerned are computed again.
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
    if setting == "auto":
        return num_nodes > 1 and sum(tensor.nbytes for tensor in params.values()) >= LARGE_UPDATE_BYTES
    return setting == "node"


class Aggregator:
    """Sums the reports of one call in groups.

    Args:
        call_id: Number of the call.
        groups: Its groups.
        worker_group: Who computes the sums.
        requeue: Called with a reported shard that has to be computed again.
        on_gradient_lost: Called with the worker and the shard of a gradient that cannot be fetched, and the error.
    """

    def __init__(
        self,
        call_id: int,
        groups: ReportGroups,
        worker_group: WorkerGroup,
        requeue: Callable[[int], None],
        on_gradient_lost: Callable[[WorkerHandle, int, RayError], None],
    ) -> None:
        self._call_id, self._groups, self._worker_group = call_id, groups, worker_group
        self._requeue, self._on_gradient_lost = requeue, on_gradient_lost

    def add_report(self, worker: WorkerHandle, result: ResultWire, grad: object) -> list[Result]:
        """Add the first report of a shard. Returns results that need not wait for a sum."""
        shard, report = result.shard, PendingReport(result, grad, worker.node_id)
        if not result.value.finite:
            return self._fetch([*self._groups.dissolve(shard), report])
        if self._groups.is_single(shard):
            return self._fetch([report])
        if self._groups.add(shard, report):
            self._request_sum(group_of(shard))
        return []

    def add_sum(self, key: ShardKey, total: ReportWire) -> list[Result]:
        """Take the sum of a group, whose first shard `key` names. Returns its result unless it is out of date."""
        group = group_of(key[1])
        if key[0] != self._call_id or group not in self._groups.summed_by:
            return []
        parts = [report.result for report in self._groups.pop(group)]
        spans = tuple(part.span for part in parts)
        wait_s, compute_s = sum(span.data_wait_s for span in spans), sum(span.compute_s for span in spans)
        return [Result(parts[0].shard, decode_value(total), parts[0].worker, wait_s, compute_s, spans)]

    def retry(self, key: ShardKey) -> None:
        """Compute the shards of a group again, since its sum failed: their gradients may be lost with their node."""
        if key[0] == self._call_id and group_of(key[1]) in self._groups.summed_by:
            self._recompute(group_of(key[1]))

    def on_worker_lost(self, worker: int) -> None:
        """Compute the groups again that a worker was asked to sum."""
        for group in self._groups.being_summed_by(worker):
            self._recompute(group)

    def _request_sum(self, group: int) -> None:
        """Ask the least busy worker on the node of most gradients, or of all workers, for the sum of a group."""
        node_id, active = self._groups.main_node(group), self._worker_group.active()
        near = [worker for worker in active if worker.node_id == node_id]
        summing = min(near or active, key=lambda worker: (len(worker.queue), worker.index), default=None)
        if summing is None:
            self._recompute(group)
            return
        self._groups.summed_by[group] = summing.index
        reports = self._groups.reports(group)
        values, grads = [report.result.value for report in reports], [report.grad for report in reports]
        self._worker_group.submit_sum(summing, (self._call_id, group * FAN_IN), values, grads)

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
                worker = self._worker_group.workers[report.result.worker]
                self._on_gradient_lost(worker, report.result.shard, error)
            else:
                results.append(decode_result(join_grad(report.result, grad)))
        return results
