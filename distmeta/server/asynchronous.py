"""The asynchronous server: nobody waits; updates of earlier versions count, unless they are too old.

An update that was computed at version v and arrives at version w is t = w - v versions old. Up to t = `outer.staleness`
its gradient is added with a factor c(t):

    g = (sum over updates of c(t_i) * grad_i) / (sum over updates of weight_i),   c(t) = 1 / (1 + t) or 1

so that old updates move less, as in Zhang et al. (2016, "Staleness-aware async-SGD for distributed deep learning"), who
divide the rate by t (there updates of the current version have t = 1). Optimizers that normalise the gradient (Adam)
undo a factor that all updates share. Updates are added in the order of arrival: this is the one mode whose result
depends on timing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from typing_extensions import override

from distmeta.config.outer import OuterConfig
from distmeta.core.types import Report, Update
from distmeta.server.base import InMemoryServer, StepError, StepRecord, Verdict, is_finite
from distmeta.server.tree import BufferPool, PartialSum


class AsynchronousServer(InMemoryServer):
    """Steps whenever enough updates have arrived.

    Shards are numbered over the whole run, from 0 again after a state has been loaded. The number of a shard that was
    accepted, stale or dropped is never used again.

    Args:
        params: The first meta-parameters (version 0); copied.
        config: The outer step; `staleness` is set.
        total_steps: Steps of the whole run, for the schedule.
        buffers: The first running statistics.

    Raises:
        ValueError: `config.staleness` is None.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        config: OuterConfig,
        total_steps: int,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(params, config, total_steps, buffers)
        if config.staleness is None:
            raise ValueError("the asynchronous server needs outer.staleness")
        self._max_age, self._inverse = config.staleness, config.staleness_weight == "inverse"
        self._buffers = BufferPool()
        self._sum: PartialSum | None = None
        self._ages: list[int] = []
        self._finished = _IndexSet()

    @override
    def push(self, report: Report) -> Verdict:
        """Add a shard's sums.

        Returns:
            STALE if it is too old, or of a version that this server has not made; its shard is then finished.
        """
        self._check(report)
        finite = is_finite(report)
        with self._lock:
            age = self.version - report.version
            if report.shard in self._finished:
                return Verdict.DUPLICATE
            if not 0 <= age <= self._max_age:
                self._finished.add(report.shard)
                return Verdict.STALE
            if not finite:
                return Verdict.NONFINITE
            self._finished.add(report.shard)
            self._add(report.update, age)
            return Verdict.ACCEPTED

    @override
    def drop(self, shard: int) -> None:
        """Give up a shard; a later report of it is a duplicate."""
        with self._lock:
            self._finished.add(shard)

    def ready(self, num_shards: int) -> bool:
        """Whether `num_shards` updates or more have been accepted since the last step."""
        with self._lock:
            return len(self._ages) >= num_shards

    @override
    def step(self, num_shards: int) -> StepRecord:
        """Make the next version from all updates since the last one.

        Args:
            num_shards: Minimum number of updates.

        Raises:
            StepError: There are fewer, or their sum cannot be used. Nothing is changed.
        """
        with self._lock:
            if self._sum is None or len(self._ages) < num_shards:
                have = f"{len(self._ages)} updates, fewer than {num_shards}" if self._ages else "no updates"
                raise StepError(f"version {self.version} cannot step: it has {have}")
            ages = self._ages
            staleness = {"staleness_mean": sum(ages) / len(ages), "staleness_max": float(max(ages))}
            return self._advance(self._sum.update, staleness)

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        with self._lock:
            self._finished = _IndexSet()

    def _add(self, update: Update, age: int) -> None:
        scaled = _scaled(update, 1.0 / (1 + age) if self._inverse else 1.0)
        if self._sum is None:
            self._sum = PartialSum(scaled, self._buffers)
        else:
            self._sum.add(scaled)
        self._ages.append(age)

    @override
    def _discard_updates(self) -> None:
        if self._sum is not None:
            self._sum.release()
        self._sum = None
        self._ages = []


class _IndexSet:
    """A set of whole numbers that fills up from 0 almost without gaps, in memory of the size of the gaps."""

    def __init__(self) -> None:
        self._first_gap = 0
        self._above: set[int] = set()

    def add(self, number: int) -> None:
        if number >= self._first_gap:
            self._above.add(number)
        while self._first_gap in self._above:
            self._above.remove(self._first_gap)
            self._first_gap += 1

    def __contains__(self, number: int) -> bool:
        return number < self._first_gap or number in self._above


def _scaled(update: Update, factor: float) -> Update:
    if factor == 1.0:
        return update
    return replace(update, grad={name: grad * factor for name, grad in update.grad.items()})
