"""The parameter server: names, tensors, weights and versions, and nothing else.

It knows no algorithm, no model and no Ray. Sums arrive in any order and from any thread; they are added as they
come, but along a tree that is fixed by the shards (`distmeta.server.tree`):

    g = (sum over shards of grad_s) / (sum over shards of weight_s)

so that the bits of the result do not depend on who was faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from distmeta.config.outer import OuterConfig
from distmeta.core.tensors import squared_norms
from distmeta.core.types import Params, Report, Update
from distmeta.server.base import HoldingServer, StepError, StepRecord, Verdict, check_update, is_finite
from distmeta.server.ledger import Book
from distmeta.server.tree import Tree, check_group

__all__ = ["ParameterServer", "Reduced", "StepError", "StepRecord", "Verdict"]


@dataclass(frozen=True)
class Reduced:
    """What a step needs to know of the mean update before it is made.

    Attributes:
        squares: Sum of squares of each tensor of the mean.
    """

    squares: Mapping[str, float]


class ParameterServer(HoldingServer):
    """The synchronous server: each step waits for all its shards (see `HoldingServer`)."""

    def __init__(self, params: Mapping[str, Tensor], config: OuterConfig, total_steps: int) -> None:
        super().__init__(params, config, total_steps)
        self._tree = Tree()
        self._book = Book()
        self._reduced: tuple[Update, Params] | None = None

    def push(self, report: Report) -> Verdict:
        """See `Server.push`; what has its turn is added at once."""
        check_update(report.shard, report.update, self._optimizer.params)
        shards = range(report.shard, report.shard + 1)
        finite = is_finite(report.update, report.finite)
        with self._lock:
            verdict = self._book.verdict(self.version, report.version, shards, finite=finite)
            if verdict is Verdict.ACCEPTED:
                self._tree.add(report.shard, report.update)
                self._book.accept(shards)
                self._reduced = None
            return verdict

    def push_sum(self, version: int, first: int, count: int, update: Update, *, finite: bool | None = None) -> Verdict:
        """Take the sum of shards `first` to `first + count - 1`, made elsewhere by `distmeta.server.tree.sum_group`.

        Args:
            version: What they were computed from.
            first: A multiple of `FAN_IN`.
            count: At most `FAN_IN`; fewer where these are the last shards of the step, or the others come one by one.
            update: Their sum. Shards that are to be dropped count, but are not in it.
            finite: Whether every entry is finite; None if nobody has looked.

        Returns:
            The verdict on the group: DUPLICATE if any of its shards has been accepted or dropped.

        Raises:
            ValueError: See `Server.push`; or these shards are no group.
        """
        check_group(first, count)
        check_update(first, update, self._optimizer.params)
        shards, known = range(first, first + count), is_finite(update, finite)
        with self._lock:
            verdict = self._book.verdict(self.version, version, shards, finite=known)
            if verdict is Verdict.ACCEPTED:
                self._tree.add_group(first, count, update)
                self._book.accept(shards)
                self._reduced = None
            return verdict

    def drop(self, shard: int) -> None:
        """Let the present step go without a shard, as if its update and its weight were 0.

        Raises:
            ValueError: It has been accepted.
        """
        with self._lock:
            if self._book.drop(shard):
                self._tree.add(shard, None)
                self._reduced = None

    def step(self, num_shards: int) -> StepRecord:
        """Divide the sum of shards 0 to `num_shards - 1` by their weight, make the next version.

        Raises:
            StepError: Other shards than these have been accepted, or their sum is of no use. Nothing is changed.
        """
        with self._lock:
            total = self._total(num_shards)
            return self._finish(total, self._mean(total), None)

    def reduce(self, num_shards: int) -> Reduced:
        """The first half of a step that several servers make together (`distmeta.server.sharded`).

        Raises:
            StepError: See `step`.
        """
        with self._lock:
            total = self._total(num_shards)
            mean = self._mean(total)
            self._reduced = total, mean
            return Reduced(squared_norms(mean))

    def apply(self, norm: float) -> StepRecord:
        """The second half of a step: `norm` is that of all servers' mean update together.

        Raises:
            StepError: Nothing has been reduced, or updates came since.
        """
        with self._lock:
            if self._reduced is None:
                raise StepError(f"version {self.version} cannot step: its updates have not been reduced")
            return self._finish(*self._reduced, norm)

    def _total(self, num_shards: int) -> Update:
        self._book.check_complete(self.version, num_shards)
        return self._tree.total()

    def _finish(self, total: Update, mean: Params, norm: float | None) -> StepRecord:
        dropped = len(self._book.dropped)
        return self._advance(total, mean, {"dropped": float(dropped)} if dropped else {}, norm)

    def _forget(self) -> None:
        self._tree.clear()
        self._book.clear()
        self._reduced = None
