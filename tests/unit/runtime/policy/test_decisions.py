"""Decisions about failures."""

from __future__ import annotations

import pytest

from distmeta.core.errors import UserError, WorkerError
from distmeta.runtime.policy.decisions import (
    MAX_BACKOFF_S,
    Abort,
    Drop,
    Exclude,
    Failure,
    FailureKind,
    FailureLimits,
    Restart,
    Retry,
    driver_error,
    is_worker_failure,
    on_nonfinite,
    on_shard_failure,
    on_worker_failure,
)

LIMITS = FailureLimits(max_shard_retries=2, max_worker_failures=3)
LOST: list[FailureKind] = ["worker_died", "node_lost", "out_of_memory", "timed_out", "silent"]


@pytest.mark.parametrize("kind", LOST)
def test_lost_attempts_are_retried_elsewhere(kind: FailureKind) -> None:
    assert on_shard_failure(0, [Failure(kind, 1)], LIMITS, num_others=1) == Retry(exclude=1)
    assert is_worker_failure(kind)


def test_a_lost_object_excludes_no_worker() -> None:
    assert on_shard_failure(0, [Failure("object_lost", 1)], LIMITS, num_others=1) == Retry(exclude=None)
    assert not is_worker_failure("object_lost")


def test_the_newest_worker_is_the_excluded_one() -> None:
    failures = [Failure("worker_died", 0), Failure("timed_out", 2)]
    assert on_shard_failure(0, failures, LIMITS, num_others=2) == Retry(exclude=2)


def test_one_failure_too_many_ends_the_run_and_lists_all() -> None:
    failures = [Failure("worker_died", 0, "killed"), Failure("timed_out", 1), Failure("worker_died", 2, "killed again")]
    decision = on_shard_failure(4, failures, LIMITS, num_others=2)
    assert isinstance(decision, Abort)
    assert "shard 4 failed 3 times" in decision.reason
    assert "runtime.tolerance.max_shard_retries is 2" in decision.reason
    assert "worker 0: killed; worker 1: timed_out; worker 2: killed again" in decision.reason


def test_no_retries_are_made_where_none_are_allowed() -> None:
    assert isinstance(on_shard_failure(0, [Failure("worker_died", 0)], FailureLimits(0, 3), num_others=1), Abort)


def test_an_exception_is_retried_once_on_another_worker() -> None:
    raised = Failure("program_raised", 0, "ValueError: boom")
    assert on_shard_failure(0, [raised], LIMITS, num_others=0) == Abort("shard 0 raised on worker 0: ValueError: boom")
    assert on_shard_failure(0, [raised], LIMITS, num_others=1) == Retry(exclude=0)
    second = Failure("program_raised", 1, "ValueError: boom")
    assert on_shard_failure(0, [raised, second], LIMITS, num_others=1) == Abort(
        "shard 0 raised on worker 1: ValueError: boom"
    )


def test_an_error_that_the_user_has_to_fix_ends_the_run() -> None:
    assert on_shard_failure(0, [Failure("user_error", 0, "store: no image")], LIMITS, num_others=3) == Abort(
        "store: no image"
    )


def test_backoff_grows_until_a_worker_is_excluded() -> None:
    died = Failure("worker_died", 1, "killed")
    limits = FailureLimits(3, 10)
    decisions = [on_worker_failure([died] * count, limits, num_others=1) for count in range(1, 10)]
    assert decisions == [Restart(after) for after in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)]
    assert max(decision.after_s for decision in decisions if isinstance(decision, Restart)) == MAX_BACKOFF_S
    excluded = on_worker_failure([died] * 10, limits, num_others=1)
    assert isinstance(excluded, Exclude)
    assert excluded.reason.startswith("worker 1 failed 10 times in a row: worker 1: killed; ")


def test_the_last_worker_is_never_excluded_but_ends_the_run_after_one_more_failure() -> None:
    died = Failure("worker_died", 0)
    assert isinstance(on_worker_failure([died] * 3, LIMITS, num_others=0), Restart)
    assert isinstance(on_worker_failure([died] * 4, LIMITS, num_others=0), Abort)


def test_a_lost_node_does_not_count_against_its_worker() -> None:
    lost = Failure("node_lost", 1)
    assert on_worker_failure([lost] * 20, LIMITS, num_others=1) == Restart(0.0)


def test_an_exception_at_the_start_of_the_only_worker_ends_the_run() -> None:
    raised = Failure("program_raised", 0, "boom")
    assert on_worker_failure([raised], LIMITS, num_others=0) == Abort("worker 0: boom")
    assert on_worker_failure([raised], LIMITS, num_others=1) == Restart(0.0)


def test_a_nonfinite_update_is_computed_once_more_before_the_configured_policy_applies() -> None:
    assert on_nonfinite(3, [1], 2, "drop") == Retry(exclude=1)
    assert isinstance(on_nonfinite(3, [1, 0], 2, "drop"), Drop)
    assert isinstance(on_nonfinite(3, [0], 1, "drop"), Drop)
    decision = on_nonfinite(3, [1, 0], 2, "abort")
    assert isinstance(decision, Abort)
    assert "shard 3 is nonfinite" in decision.reason


def test_a_second_nonfinite_update_of_the_same_worker_is_believed() -> None:
    assert isinstance(on_nonfinite(3, [1, 1], 2, "drop"), Drop)


def test_errors_that_a_user_can_fix_are_raised_unchanged() -> None:
    error = UserError("bad", where="there")
    assert driver_error(error, "shard 1", "trace") is error


def test_other_errors_have_type_message_and_the_end_of_the_traceback() -> None:
    trace = "\n".join(f"line {number}" for number in range(20))
    error = driver_error(KeyError("x"), "shard 1 on worker 0", trace)
    assert isinstance(error, WorkerError)
    lines = str(error).splitlines()
    assert lines[0] == "shard 1 on worker 0: KeyError: 'x'"
    assert lines[-1] == "line 19"
    assert "line 3" not in lines


def test_an_error_that_could_not_be_sent_is_named_by_its_traceback() -> None:
    assert "ValueError: boom" in str(driver_error(None, "worker 0", "Traceback\nValueError: boom\n"))
