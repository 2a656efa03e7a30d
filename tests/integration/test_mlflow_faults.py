"""Each step of a metric is recorded exactly once: a real MLflow server behind a proxy that injects faults."""

from __future__ import annotations

import contextlib
import math
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distmeta.core.errors import UserError
from distmeta.tracking import process
from distmeta.tracking.mlflow import MlflowTracker
from distmeta.tracking.ui import MlflowServer

from ..fakes_tracking import Gate
from ..logged import Logged

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
Make = Callable[..., MlflowTracker]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with MlflowServer(f"sqlite:///{tmp_path_factory.mktemp('faults') / 'mlflow.db'}", port=port) as running:
        yield running.address


@pytest.fixture
def gate(server: str) -> Iterator[Gate]:
    with Gate(server) as gate:
        yield gate


@pytest.fixture
def make(gate: Gate, tmp_path: Path) -> Iterator[Make]:
    """Factory of trackers that use the proxy."""
    trackers: list[MlflowTracker] = []

    def build(resume_timeout_s: float = 60.0) -> MlflowTracker:
        unsent = tmp_path / "unsent"
        trackers.append(
            MlflowTracker(gate.address, "faults", unsent=unsent, interval_s=0.01, resume_timeout_s=resume_timeout_s)
        )
        return trackers[-1]

    yield build
    for tracker in trackers:
        kill(tracker)


def kill(tracker: MlflowTracker, *, with_process: bool = False) -> None:
    """Kill a driver: it sends nothing more, except for requests in progress.

    Args:
        tracker: That of the driver.
        with_process: Also end the process that talks to MLflow, as the end of a real driver does; another one takes
            seconds to start.
    """
    if with_process:
        process.close_shared()
    with contextlib.suppress(AttributeError):  # it has not been started
        tracker._sender.close(0.0)
        tracker._staging.remove()


def history(server: str, run_id: str, key: str) -> list[tuple[int, float]]:
    points = MlflowClient(server).get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in points)


@pytest.mark.slow
def test_a_lost_response_duplicates_nothing(server: str, gate: Gate, make: Make) -> None:
    tracker = make()
    run_id = tracker.start("run", {}, None)
    written = gate.written
    gate.mode = "swallow"
    for step in range(5):
        tracker.log(step, {"loss": 1 / (step + 3), "bad": math.nan, "worse": -math.inf})
    gate.wait_until_written(written + 2)
    assert [point.step for point in tracker.pending() if point.key == "loss"] == [0, 1, 2, 3, 4]
    gate.mode = "open"
    tracker.close()
    assert tracker.pending() == []
    assert history(server, run_id, "loss") == [(step, 1 / (step + 3)) for step in range(5)]
    assert [step for step, _ in history(server, run_id, "bad")] == [0, 1, 2, 3, 4]
    assert [step for step, _ in history(server, run_id, "worse")] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_pending_values_of_a_killed_driver_are_restored_from_the_checkpoint(
    server: str, gate: Gate, make: Make
) -> None:
    tracker = make()
    run_id = tracker.start("run", {}, None)
    written = gate.written
    tracker.log(1, {"loss": 1.0})
    gate.wait_until_written(written + 1)
    gate.mode = "swallow"
    tracker.log(2, {"loss": 2.0})  # the store records it, but the driver gets no response
    gate.wait_until_written(written + 2)
    gate.mode = "shut"
    tracker.log(3, {"loss": 3.0, "val": math.nan})
    pending = tracker.pending()
    assert {(point.key, point.step) for point in pending} >= {("loss", 2), ("loss", 3), ("val", 3)}
    tracker.log(4, {"loss": 4.0})  # after the checkpoint
    kill(tracker, with_process=True)

    gate.mode = "open"
    tracker = make()
    assert tracker.start("run", {}, run_id, pending) == run_id
    for step in (3, 4, 5):
        tracker.log(step, {"loss": float(step), "val": math.nan})
    tracker.close()
    assert history(server, run_id, "loss") == [(step, float(step)) for step in range(1, 6)]
    assert [step for step, _ in history(server, run_id, "val")] == [3, 4, 5]


@pytest.mark.slow
def test_a_request_processed_after_its_driver_was_killed_duplicates_nothing(
    server: str, gate: Gate, make: Make
) -> None:
    tracker = make()
    run_id = tracker.start("run", {}, None)
    gate.mode = "hold"
    tracker.log(1, {"loss": 1.0})
    gate.wait_until_held()
    kill(tracker, with_process=True)
    gate.mode = "open"
    tracker = make()
    tracker.start("run", {}, run_id)
    gate.release()
    tracker.log(1, {"loss": 1.5})
    tracker.log(2, {"loss": 2.0})
    tracker.close()
    assert history(server, run_id, "loss") == [(1, 1.0), (2, 2.0)]


@pytest.mark.slow
def test_a_resumed_run_waits_for_the_server(gate: Gate, make: Make, logged: Logged) -> None:
    tracker = make()
    run_id = tracker.start("run", {}, None)
    tracker.close()
    gate.mode = "shut"
    opening = threading.Timer(2.0, lambda: setattr(gate, "mode", "open"))
    opening.start()
    tracker = make()
    assert tracker.start("run", {}, run_id) == run_id
    tracker.close()
    opening.join()
    messages = [record.getMessage() for record in logged.records]
    assert len(messages) == 1 and "the store is unavailable; waiting up to" in messages[0]

    gate.mode = "shut"
    with pytest.raises(UserError, match=r"tracking\.uri: the store .* cannot be used"):
        make(resume_timeout_s=0.5).start("run", {}, run_id)


@pytest.mark.slow
def test_texts_are_masked_and_replaced(server: str, gate: Gate, make: Make, tmp_path: Path) -> None:
    tracker = make()
    run_id = tracker.start("run", {}, None)
    tracker.text('{"what": "http://me:hunter2@host", "who": "a@b"}\n', "incidents.jsonl")
    gate.mode = "shut"
    for number in range(3):
        tracker.text(f"postgresql://me:hunter2@host, {number}", "workers/worker-3.txt")
    gate.mode = "open"
    for path in ("../x", "/etc/x", "a//b", "a/./b", "C:x", "a\\..\\b", ""):
        with pytest.raises(UserError, match="is not an artifact path"):
            tracker.text("", path)
    with pytest.raises(UserError, match="is not an artifact path"):
        tracker.artifact(tmp_path, "../..")
    tracker.close()
    artifacts = Path(MlflowClient(server).download_artifacts(run_id, "", str(tmp_path)))
    assert (artifacts / "incidents.jsonl").read_text() == '{"what": "http://me:***@host", "who": "a@b"}\n'
    assert (artifacts / "workers" / "worker-3.txt").read_text() == "postgresql://me:***@host, 2"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_kills_and_outages_neither_lose_nor_duplicate_values(
    server: str, gate: Gate, make: Make, seed: int
) -> None:
    draw = random.Random(seed)
    steps = 60
    tracker = make()
    run_id = tracker.start("run", {}, None)
    checkpoint, pending, step, kills = 0, tracker.pending(), 0, 0
    while step < steps:
        step += 1
        tracker.log(step, {"loss": float(step)})
        if step % 5 == 0:
            tracker.log(step, {"val": math.nan if step % 10 else 0.1 * step})
        if step % 10 == 0:
            checkpoint, pending = step, tracker.pending()
        if draw.random() < 0.2:
            gate.mode = draw.choice(("open", "shut", "swallow", "hold"))
        threading.Event().wait(draw.choice((0.0, 0.0, 0.02, 0.1)))
        if kills < 6 and draw.random() < 0.15:
            kill(tracker)
            kills, step = kills + 1, checkpoint
            gate.mode = "shut" if draw.random() < 0.5 else "open"
            opening = threading.Timer(0.3, lambda: setattr(gate, "mode", "open"))
            opening.start()
            tracker = make()
            assert tracker.start("run", {}, run_id, pending) == run_id
            opening.join()
            gate.release()
    gate.mode = "open"
    gate.release()
    tracker.close()
    assert [at for at, _ in history(server, run_id, "loss")] == list(range(1, steps + 1))
    assert [at for at, _ in history(server, run_id, "val")] == list(range(5, steps + 1, 5))
    assert kills
