"""Which shards of a version have been reported."""

from __future__ import annotations

from distmeta.server.base import StepError, Verdict


class Ledger:
    """The shards of one version that have been accepted or dropped. Not thread-safe.

    Attributes:
        dropped: Shards that the step leaves out.
    """

    def __init__(self) -> None:
        self.dropped: set[int] = set()
        self._seen: set[int] = set()

    def verdict(self, version: int, reported: int, shards: range, *, finite: bool) -> Verdict:
        """What to do with a report of `shards` that was computed at version `reported`."""
        if reported != version:
            return Verdict.STALE
        if any(shard in self._seen for shard in shards):
            return Verdict.DUPLICATE
        return Verdict.ACCEPTED if finite else Verdict.NONFINITE

    def accept(self, shards: range) -> None:
        self._seen.update(shards)

    def drop(self, shard: int) -> bool:
        """Record that a shard is dropped; False if it was dropped before.

        Raises:
            ValueError: It has been accepted.
        """
        if shard in self.dropped:
            return False
        if shard in self._seen:
            raise ValueError(f"shard {shard} has been accepted: it cannot be dropped")
        self._seen.add(shard)
        self.dropped.add(shard)
        return True

    def check_complete(self, version: int, num_shards: int) -> None:
        """Check that exactly the shards 0 to `num_shards - 1` were reported, and that not all of them were dropped.

        Raises:
            StepError: They were not.
        """
        missing = [shard for shard in range(num_shards) if shard not in self._seen]
        unexpected = sorted(shard for shard in self._seen if not 0 <= shard < num_shards)
        if missing or unexpected or num_shards < 1:
            raise StepError(
                f"version {version} cannot step with {len(self._seen)} updates for {num_shards} shards: "
                f"missing shards {missing}, unexpected shards {unexpected}"
            )
        if len(self.dropped) == num_shards:
            raise StepError(f"version {version} cannot step: all its {num_shards} shards have been dropped")

    def clear(self) -> None:
        self._seen.clear()
        self.dropped.clear()
