"""The ledger of accepted and dropped shards."""

from __future__ import annotations

import pytest

from distmeta.server.base import StepError, Verdict
from distmeta.server.ledger import Ledger


def test_verdicts_on_stale_nonfinite_and_duplicate_shards() -> None:
    ledger = Ledger()
    assert ledger.verdict(3, 2, range(0, 1), finite=False) is Verdict.STALE
    assert ledger.verdict(3, 3, range(0, 1), finite=False) is Verdict.NONFINITE
    assert ledger.verdict(3, 3, range(0, 4), finite=True) is Verdict.ACCEPTED
    ledger.accept(range(2, 4))
    assert ledger.verdict(3, 3, range(0, 4), finite=False) is Verdict.DUPLICATE
    assert ledger.verdict(3, 3, range(0, 2), finite=True) is Verdict.ACCEPTED
    ledger.drop(1)
    assert ledger.verdict(3, 3, range(1, 2), finite=True) is Verdict.DUPLICATE
    ledger.clear()
    assert ledger.verdict(4, 4, range(0, 4), finite=True) is Verdict.ACCEPTED


def test_an_accepted_shard_cannot_be_dropped() -> None:
    ledger = Ledger()
    ledger.accept(range(0, 2))
    with pytest.raises(ValueError, match="shard 1 has been accepted"):
        ledger.drop(1)
    assert ledger.drop(2)
    assert not ledger.drop(2)
    assert ledger.dropped == {2}
    ledger.check_complete(0, 3)


@pytest.mark.parametrize(
    ("accepted", "num_shards", "message"),
    [
        (range(0), 0, "with 0 updates for 0 shards"),
        (range(1, 3), 4, r"missing shards \[0, 3\], unexpected shards \[\]"),
        (range(0, 3), 2, r"missing shards \[\], unexpected shards \[2\]"),
    ],
)
def test_a_version_needs_exactly_its_shards(accepted: range, num_shards: int, message: str) -> None:
    ledger = Ledger()
    ledger.accept(accepted)
    with pytest.raises(StepError, match=message):
        ledger.check_complete(7, num_shards)


def test_a_version_needs_a_shard_that_is_not_dropped() -> None:
    ledger = Ledger()
    ledger.drop(0)
    with pytest.raises(StepError, match="all its 1 shards have been dropped"):
        ledger.check_complete(7, 1)
