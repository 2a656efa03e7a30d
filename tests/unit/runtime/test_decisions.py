"""What is decided about failures, and who gets which shard."""

from __future__ import annotations

import pytest

from distmeta.errors import UserError, WorkerError
from distmeta.runtime.decisions import (
    Abort,
    Failure,
    FailureKind,
    Policy,
    Retry,
    likely_next,
    next_shard,
    on_failure,
    surfaced,
)

from ...fakes import make_shards

SHARDS = make_shards(6)
POLICY = Policy(max_shard_retries=2)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("worker_died", Retry(exclude=1)), ("timed_out", Retry(exclude=1)), ("object_lost", Retry(exclude=None))],
)
def test_lost_attempts_are_made_again(kind: FailureKind, expected: Retry) -> None:
    assert on_failure(SHARDS[0], [Failure(kind, 1)], POLICY) == expected


def test_the_newest_worker_is_the_excluded_one() -> None:
    failures = [Failure("worker_died", 0), Failure("timed_out", 2)]
    assert on_failure(SHARDS[0], failures, POLICY) == Retry(exclude=2)


def test_one_failure_too_many_ends_the_run_and_lists_all() -> None:
    failures = [Failure("worker_died", 0, "killed"), Failure("timed_out", 1), Failure("worker_died", 2, "killed again")]
    decision = on_failure(SHARDS[4], failures, POLICY)
    assert isinstance(decision, Abort)
    assert "shard 4 failed 3 times" in decision.reason
    assert "runtime.max_shard_retries is 2" in decision.reason
    assert "worker 0: killed; worker 1: timed_out; worker 2: killed again" in decision.reason


def test_an_exception_of_the_program_is_final() -> None:
    decision = on_failure(SHARDS[0], [Failure("program_raised", 0, "ValueError: boom")], POLICY)
    assert decision == Abort("shard 0 raised on worker 0: ValueError: boom")


def test_a_worker_that_cannot_start_is_named() -> None:
    decision = on_failure(None, [Failure("worker_died", 1)] * 3, POLICY)
    assert isinstance(decision, Abort)
    assert decision.reason.startswith("the start of worker 1 failed 3 times")


def test_no_retries_allowed() -> None:
    assert isinstance(on_failure(SHARDS[0], [Failure("worker_died", 0)], Policy(0)), Abort)


def test_a_worker_gets_its_own_shards_first() -> None:
    assert next_shard(SHARDS, 1, 3, {}, steal=True) is SHARDS[1]
    assert next_shard(SHARDS[2:], 1, 3, {}, steal=False) is SHARDS[4]


def test_an_idle_worker_takes_the_last_shard_of_another() -> None:
    others = [SHARDS[0], SHARDS[3]]
    assert next_shard(others, 1, 3, {}, steal=False) is None
    assert next_shard(others, 1, 3, {}, steal=True) is SHARDS[3]
    assert next_shard([], 1, 3, {}, steal=True) is None


def test_a_failed_shard_goes_elsewhere_at_once() -> None:
    excluded = {2: 2}
    assert next_shard(SHARDS, 0, 3, excluded, steal=False) is SHARDS[2]
    assert next_shard(SHARDS, 2, 3, excluded, steal=False) is SHARDS[5]
    assert next_shard([SHARDS[2]], 2, 3, excluded, steal=True) is None
    assert next_shard([SHARDS[2]], 0, 1, {2: 0}, steal=False) is SHARDS[2]


def test_the_likely_next_shard_is_the_workers_own() -> None:
    upcoming = make_shards(4, first_seed=1000)
    assert likely_next(SHARDS[1], SHARDS[2:], upcoming, 1, 2) is SHARDS[3]
    assert likely_next(SHARDS[5], [], upcoming, 1, 2) is upcoming[1]
    assert likely_next(SHARDS[5], [], [], 1, 2) is None


def test_errors_a_user_can_mend_surface_unchanged() -> None:
    error = UserError("bad", where="there")
    assert surfaced(error, "shard 1", "trace") is error


def test_other_errors_surface_with_type_message_and_end_of_trace() -> None:
    trace = "\n".join(f"line {number}" for number in range(20))
    error = surfaced(KeyError("x"), "shard 1 on worker 0", trace)
    assert isinstance(error, WorkerError)
    lines = str(error).splitlines()
    assert lines[0] == "shard 1 on worker 0: KeyError: 'x'"
    assert lines[-1] == "line 19"
    assert "line 3" not in lines


def test_an_error_that_could_not_be_sent_surfaces_by_its_trace() -> None:
    assert "ValueError: boom" in str(surfaced(None, "worker 0", "Traceback\nValueError: boom\n"))
