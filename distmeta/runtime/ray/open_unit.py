"""A unit that a leader has been asked for, until all its shards are computed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from distmeta.core.types import Report, Shard
from distmeta.runtime.messages import ReportWire, ResultWire, UnitRequest
from distmeta.runtime.wire import decode_value, encode_value
from distmeta.server.tree import FAN_IN, Tree


@dataclass
class OpenUnit:
    """A unit whose shards are being computed.

    Attributes:
        request: What was asked.
        snapshot: Ray's reference to the snapshot.
        shards: Its shards, by index.
        results: Reports so far, by index of the shard.
        tree: The sum of those that are finite reports.
    """

    request: UnitRequest
    snapshot: Any
    shards: dict[int, Shard]
    results: dict[int, ResultWire] = field(default_factory=dict)
    tree: Tree = field(default_factory=Tree)

    @property
    def is_group(self) -> bool:
        """Whether its sum is one of the server's."""
        return self.request.key[1] >= 0 and len(self.shards) > 1

    def add(self, result: ResultWire) -> bool:
        """Add the first report of a shard. Returns whether the unit is complete."""
        self.results[result.shard] = result
        if self.is_group and isinstance(result.value, ReportWire) and result.value.finite:
            self.tree.add(result.shard % FAN_IN, decode_value(result.value).update)
        return len(self.results) == len(self.shards)

    def answer(self) -> list[ResultWire]:
        """The sum of a group; the results one by one if there is none, or one is not finite."""
        results = [self.results[index] for index in sorted(self.results)]
        values = [result.value for result in results]
        if not self.is_group or not all(isinstance(value, ReportWire) and value.finite for value in values):
            return results
        carries = {shard: carry for value in values for shard, carry in value.carries.items()}
        total = encode_value(Report(values[0].version, results[0].shard, self.tree.total(), True, len(results)))
        spans = tuple(result.span for result in results)
        wait_s, compute_s = sum(span.data_wait_s for span in spans), sum(span.compute_s for span in spans)
        total = replace(total, carries=carries)
        return [ResultWire(results[0].shard, total, results[0].worker, wait_s, compute_s, spans)]
