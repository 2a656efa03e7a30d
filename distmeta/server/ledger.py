"""Which shards of a version are there."""

from __future__ import annotations

from distmeta.server.base import StepError, Verdict


class Book:
    """The shards of one version that have been accepted or dropped. Not to be used from several threads at once.

    Attributes:
        dropped: Those that the step goes without.
    """

    def __init__(self) -> None:
        self.dropped: set[int] = set()
        self._seen: set[int] = set()

    def verdict(self, version: int, reported: int, shards: range, *, finite: bool) -> Verdict:
        """What to do with a report of `shards`, computed at `reported` where `version` is wanted."""
        if reported != version:
            return Verdict.STALE
        if any(shard in self._seen for shard in shards):
            return Verdict.DUPLICATE
        return Verdict.ACCEPTED if finite else Verdict.NONFINITE

    def accept(self, shards: range) -> None:
        """Note that shards have been accepted."""
        self._seen.update(shards)

    def drop(self, shard: int) -> bool:
        """Note that a shard is dropped; False if it has been already.

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
        """See that shards 0 to `num_shards - 1` are there, no others, and not all of them dropped.

        Raises:
            StepError: It is not so.
        """
        missing = [shard for shard in range(num_shards) if shard not in self._seen]
        surplus = sorted(shard for shard in self._seen if not 0 <= shard < num_shards)
        if missing or surplus or num_shards < 1:
            raise StepError(
                f"version {version} cannot step with {len(self._seen)} updates for {num_shards} shards: "
                f"missing shards {missing}, unexpected shards {surplus}"
            )
        if len(self.dropped) == num_shards:
            raise StepError(f"version {version} cannot step: all its {num_shards} shards have been dropped")

    def clear(self) -> None:
        """Begin another version."""
        self._seen.clear()
        self.dropped.clear()
