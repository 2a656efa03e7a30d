"""What is decided about failures."""

from __future__ import annotations

import pytest

from distmeta.core.errors import UserError, WorkerError
from distmeta.runtime.policy.decisions import (
    LONGEST_REST_S,
    Abort,
    Drop,
    Failure,
    FailureKind,
    LeaveOut,
    Policy,
    Restart,
    Retry,
    loses_worker,
    on_failure,
    on_nonfinite,
    on_worker_failure,
    surfaced,
)

POLICY = Policy(max_shard_retries=2, max_worker_failures=3)
LOST: list[FailureKind] = ["worker_died", "node_lost", "out_of_memory", "timed_out", "silent"]


@pytest.mark.parametrize("kind", LOST)
def test_lost_attempts_are_made_elsewhere(kind: FailureKind) -> None:
    assert on_failure(0, [Failure(kind, 1)], POLICY, others=1) == Retry(exclude=1)
    assert loses_worker(kind)


def test_a_lost_object_is_nobodys_fault() -> None:
    assert on_failure(0, [Failure("object_lost", 1)], POLICY, others=1) == Retry(exclude=None)
    assert not loses_worker("object_lost")


def test_the_newest_worker_is_the_excluded_one() -> None:
    failures = [Failure("worker_died", 0), Failure("timed_out", 2)]
    assert on_failure(0, failures, POLICY, others=2) == Retry(exclude=2)


def test_one_failure_too_many_ends_the_run_and_lists_all() -> None:
    failures = [Failure("worker_died", 0, "killed"), Failure("timed_out", 1), Failure("worker_died", 2, "killed again")]
    decision = on_failure(4, failures, POLICY, others=2)
    assert isinstance(decision, Abort)
    assert "shard 4 failed 3 times" in decision.reason
    assert "runtime.tolerance.max_shard_retries is 2" in decision.reason
    assert "worker 0: killed; worker 1: timed_out; worker 2: killed again" in decision.reason


def test_no_retries_allowed() -> None:
    assert isinstance(on_failure(0, [Failure("worker_died", 0)], Policy(0, 3), others=1), Abort)


def test_an_exception_gets_a_second_opinion_where_there_is_one() -> None:
    raised = Failure("program_raised", 0, "ValueError: boom")
    assert on_failure(0, [raised], POLICY, others=0) == Abort("shard 0 raised on worker 0: ValueError: boom")
    assert on_failure(0, [raised], POLICY, others=1) == Retry(exclude=0)
    second = Failure("program_raised", 1, "ValueError: boom")
    assert on_failure(0, [raised, second], POLICY, others=1) == Abort("shard 0 raised on worker 1: ValueError: boom")


def test_what_a_user_has_to_mend_is_final() -> None:
    assert on_failure(0, [Failure("user_error", 0, "store: no image")], POLICY, others=3) == Abort("store: no image")


def test_rests_grow_until_a_worker_is_left_out() -> None:
    died = Failure("worker_died", 1, "killed")
    policy = Policy(3, 10)
    rests = [on_worker_failure([died] * count, policy, others=1) for count in range(1, 10)]
    assert rests == [Restart(after) for after in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0)]
    assert max(rest.after_s for rest in rests if isinstance(rest, Restart)) == LONGEST_REST_S
    out = on_worker_failure([died] * 10, policy, others=1)
    assert isinstance(out, LeaveOut)
    assert out.reason.startswith("worker 1 failed 10 times in a row: worker 1: killed; ")


def test_the_last_worker_is_not_left_out_but_ends_the_run_in_the_end() -> None:
    died = Failure("worker_died", 0)
    assert isinstance(on_worker_failure([died] * 3, POLICY, others=0), Restart)
    assert isinstance(on_worker_failure([died] * 4, POLICY, others=0), Abort)


def test_a_lost_machine_is_not_its_workers_fault() -> None:
    lost = Failure("node_lost", 1)
    assert on_worker_failure([lost] * 20, POLICY, others=1) == Restart(0.0)


def test_an_exception_at_the_start_of_the_only_worker_ends_the_run() -> None:
    raised = Failure("program_raised", 0, "boom")
    assert on_worker_failure([raised], POLICY, others=0) == Abort("worker 0: boom")
    assert on_worker_failure([raised], POLICY, others=1) == Restart(0.0)


def test_a_nonfinite_update_gets_a_second_opinion_and_then_the_configured_fate() -> None:
    assert on_nonfinite(3, [1], 2, "drop") == Retry(exclude=1)
    assert isinstance(on_nonfinite(3, [1, 0], 2, "drop"), Drop)
    assert isinstance(on_nonfinite(3, [0], 1, "drop"), Drop)
    decision = on_nonfinite(3, [1, 0], 2, "abort")
    assert isinstance(decision, Abort)
    assert "shard 3 is nonfinite" in decision.reason


def test_a_nonfinite_update_that_comes_back_from_the_same_worker_is_believed_by_and_by() -> None:
    assert isinstance(on_nonfinite(3, [1, 1], 2, "drop"), Drop)


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
