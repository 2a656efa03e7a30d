"""Ray's errors as failures."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from distmeta.core.errors import UserError, WorkerError
from distmeta.runtime.policy.decisions import FailureKind
from distmeta.runtime.ray.errors import abort_error, failure_of, plain_text

LOST = ObjectLostError("ff" * 28, None, "")


def raised(cause: Exception) -> RayTaskError:
    name = type(cause).__name__
    return RayTaskError("run", f"\x1b[36mray::WorkerActor.run()\x1b[39m\n  File ...\n{name}: {cause}\n", cause)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), "worker_died"),
        (NodeDiedError("gone"), "node_lost"),
        (OutOfMemoryError("killed"), "out_of_memory"),
        (GetTimeoutError("late"), "object_lost"),
        (LOST, "object_lost"),
        (raised(LOST), "object_lost"),
        (raised(ValueError("boom")), "program_raised"),
        (raised(UserError("no image")), "user_error"),
    ],
)
def test_errors_are_classified(error: RayError, kind: FailureKind) -> None:
    assert failure_of(3, error).kind == kind
    assert failure_of(3, error).worker == 3


@pytest.mark.parametrize("text", ["The actor died because its node has died.", "node 10.0.0.3 was marked dead"])
def test_a_lost_node_is_recognised_by_rays_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActorDiedError, "__str__", lambda self: text)
    assert failure_of(0, ActorDiedError()).kind == "node_lost"


def test_a_worker_killed_for_its_memory_is_recognised_by_rays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Task was killed due to the node running low on memory."
    monkeypatch.setattr(ActorDiedError, "__str__", lambda self: text)
    assert failure_of(0, ActorDiedError()).kind == "out_of_memory"


def test_details_are_one_line_without_colors() -> None:
    failure = failure_of(0, raised(ValueError("boom")))
    assert failure.detail == "ValueError: boom"
    assert "\x1b" not in failure.traceback
    assert failure_of(0, ActorDiedError()).detail == "its process died (ActorDiedError)"
    assert failure_of(0, LOST).detail == "an object was lost (ObjectLostError)"


def test_a_run_ends_with_the_programs_exception_if_there_is_one() -> None:
    error = UserError("no image", where="store")
    assert abort_error("shard 1 failed", raised(error), "shard 1 on worker 0") is error
    ended = abort_error("shard 1 failed", raised(ValueError("boom")), "shard 1 on worker 0")
    assert isinstance(ended, WorkerError)
    assert str(ended).startswith("shard 1 on worker 0: ValueError: boom")
    assert str(abort_error("shard 1 failed 4 times", ActorDiedError(), "shard 1")) == "shard 1 failed 4 times"
    assert plain_text(raised(ValueError("boom"))).startswith("ray::WorkerActor.run()")
