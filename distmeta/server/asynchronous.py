"""The asynchronous server: nobody waits; updates of earlier versions count, if they are not too old.

An update that was computed at version v and arrives at version w is t = w - v versions old. Up to t = `outer.staleness`
it is added with a factor c(t), gradient, weight and metrics alike, so that a step makes a weighted mean:

    g = (sum over updates of c(t_i) * grad_i) / (sum over updates of c(t_i) * weight_i),   c(t) = 1 / (1 + t) or 1

as in Zhang et al. (2016, "Staleness-aware async-SGD for distributed deep learning"), who divide the rate by t. Updates
are added in the order of arrival: this is the one mode whose result depends on who was faster.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distmeta.config.outer import OuterConfig
from distmeta.core.types import Report, Update
from distmeta.server.base import HoldingServer, StepError, StepRecord, Verdict, check_update, is_finite
from distmeta.server.tree import Memory, PartialSum


class AsynchronousServer(HoldingServer):
    """Steps whenever enough updates have come (see `HoldingServer`).

    Shards are numbered over the whole run, from 0 again after a state has been loaded. A shard that is accepted, stale
    or dropped is done with; its number never comes again.

    Args:
        params: The first meta-parameters (version 0); copied.
        config: How to step; `staleness` is set.
        total_steps: Steps of the whole run, for the schedule.

    Raises:
        ValueError: `config.staleness` is None.
    """

    def __init__(self, params: Mapping[str, Tensor], config: OuterConfig, total_steps: int) -> None:
        super().__init__(params, config, total_steps)
        if config.staleness is None:
            raise ValueError("the asynchronous server needs outer.staleness")
        self._oldest, self._inverse = config.staleness, config.staleness_weight == "inverse"
        self._memory = Memory()
        self._sum: PartialSum | None = None
        self._ages: list[int] = []
        self._done = _Numbers()

    def push(self, report: Report) -> Verdict:
        """Take a shard's sums.

        Args:
            report: Its version is that of the snapshot it was computed from.

        Returns:
            STALE if it is too old, or of a version that this server has not made. Its shard is then given up.

        Raises:
            ValueError: See `Server.push`.
        """
        check_update(report.shard, report.update, self._optimizer.params)
        finite = is_finite(report.update, report.finite)
        with self._lock:
            age = self.version - report.version
            if report.shard in self._done:
                return Verdict.DUPLICATE
            if not 0 <= age <= self._oldest:
                self._done.add(report.shard)
                return Verdict.STALE
            if not finite:
                return Verdict.NONFINITE
            self._done.add(report.shard)
            self._take(report.update, age)
            return Verdict.ACCEPTED

    def drop(self, shard: int) -> None:
        """Give up a shard; a report of it that comes later is a duplicate."""
        with self._lock:
            self._done.add(shard)

    def ready(self, num_shards: int) -> bool:
        """Whether `num_shards` updates or more, however old, have been accepted since the last step."""
        with self._lock:
            return len(self._ages) >= num_shards

    def step(self, num_shards: int) -> StepRecord:
        """Make the next version from all updates since the last one.

        Args:
            num_shards: How many there must be at least.

        Raises:
            StepError: There are fewer, or their sum is of no use. Nothing is changed.
        """
        with self._lock:
            if self._sum is None or len(self._ages) < num_shards:
                have = f"{len(self._ages)} updates, fewer than {num_shards}" if self._ages else "no updates"
                raise StepError(f"version {self.version} cannot step: it has {have}")
            total, ages = self._sum.update, self._ages
            about = {"staleness_mean": sum(ages) / len(ages), "staleness_max": float(max(ages))}
            return self._advance(total, self._mean(total), about)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See `Server.load_state_dict`; shards are numbered from 0 again."""
        super().load_state_dict(state)
        with self._lock:
            self._done = _Numbers()

    def _take(self, update: Update, age: int) -> None:
        scaled = _scaled(update, 1.0 / (1 + age) if self._inverse else 1.0)
        if self._sum is None:
            self._sum = PartialSum(scaled, self._memory)
        else:
            self._sum.add(scaled)
        self._ages.append(age)

    def _forget(self) -> None:
        if self._sum is not None:
            self._sum.release()
        self._sum = None
        self._ages = []


class _Numbers:
    """A set of whole numbers that grows from 0 on, almost without holes: what is below the first hole is one number."""

    def __init__(self) -> None:
        self._hole = 0
        self._above: set[int] = set()

    def add(self, number: int) -> None:
        if number >= self._hole:
            self._above.add(number)
        while self._hole in self._above:
            self._above.remove(self._hole)
            self._hole += 1

    def __contains__(self, number: int) -> bool:
        return number < self._hole or number in self._above


def _scaled(update: Update, factor: float) -> Update:
    if factor == 1.0:
        return update
    return Update(
        {name: grad * factor for name, grad in update.grad.items()},
        update.weight * factor,
        {name: value * factor for name, value in update.metrics.items()},
    )
