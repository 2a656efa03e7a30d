"""The synchronous parameter server: names, tensors, weights and versions, and nothing else.

It knows no algorithm, no model and no Ray. Sums arrive in any order and from any thread; they are added as they
arrive, along a tree that is fixed by the shards (`distmeta.server.tree`):

    g = (sum over shards of grad_s) / (sum over shards of weight_s)

so that the bits of the result do not depend on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from typing_extensions import override

from distmeta.config.outer import OuterConfig
from distmeta.core.types import Report
from distmeta.server.base import InMemoryServer, StepRecord, Verdict, is_finite
from distmeta.server.ledger import Ledger
from distmeta.server.tree import Tree, level_of


class ParameterServer(InMemoryServer):
    """Each step waits for all its shards."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        config: OuterConfig,
        total_steps: int,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(params, config, total_steps, buffers)
        self._tree = Tree()
        self._ledger = Ledger()

    @override
    def push(self, report: Report) -> Verdict:
        """Add a shard's sums, or those of a group, or of a group of groups, that `distmeta.server.tree.sum_group` made.

        A group may be the first few shards of one where these are the last of the step, or the others are pushed one by
        one. Shards that will be dropped count in it, but are not in its sum.
        """
        if report.count > 1:
            level_of(report.shard, report.count)
        self._check(report)
        finite = is_finite(report)
        with self._lock:
            verdict = self._ledger.verdict(self.version, report.version, report.shards, finite=finite)
            if verdict is Verdict.ACCEPTED:
                self._ledger.accept(report.shards)
                if report.count > 1:
                    self._tree.add_group(report.shard, report.count, report.update)
                else:
                    self._tree.add(report.shard, report.update)
            return verdict

    @override
    def drop(self, shard: int) -> None:
        """Leave a shard out of the current step, as if its update and its weight were 0.

        Raises:
            ValueError: It has been accepted.
        """
        with self._lock:
            if self._ledger.drop(shard):
                self._tree.add(shard, None)

    @override
    def step(self, num_shards: int) -> StepRecord:
        """Make the next version from the sum of shards 0 to `num_shards - 1`, divided by their weight.

        Raises:
            StepError: Other shards than these have been accepted, or their sum cannot be used. Nothing is changed.
        """
        with self._lock:
            self._ledger.check_complete(self.version, num_shards)
            dropped = len(self._ledger.dropped)
            return self._advance(self._tree.total(), {"dropped": float(dropped)} if dropped else {})

    @override
    def _discard_updates(self) -> None:
        self._tree.clear()
        self._ledger.clear()
