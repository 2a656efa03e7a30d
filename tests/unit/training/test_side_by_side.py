"""Runs side by side, with small programs in place of the processes that train."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError, UserError, WorkerError
from distmeta.core.signals import SIGNALS, Stopped
from distmeta.training import side_by_side as module
from distmeta.training.seed_process import error_from_json, error_to_json
from distmeta.training.seed_run import SeedRun
from distmeta.training.side_by_side import train_side_by_side

from ...waiting import until

# A child reads its run and does what its part of the script says; `log` notes it in the order of all children.
CHILD = """
import json, os, signal, sys, time

def log(what):
    file = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{what}{seed}\\n".encode())
    os.close(file)

def answer(**fields):
    os.write(int(sys.argv[-1]), json.dumps(fields).encode())

def wait_for(what):
    for _ in range(600):
        if os.path.exists("log") and what in open("log").read().split():
            return
        time.sleep(0.05)
    raise SystemExit(f"{what} never happened")

def until_stopped(times=1):
    signals = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(log("stopped")))
    log("ready")
    for _ in range(600):
        if len(signals) == times:
            answer(stopped=signal.SIGTERM)
            raise SystemExit(143)
        time.sleep(0.05)

request = json.loads(sys.stdin.readline())
seed = request["run"]["config"]["seed"]
log("start")
"""


@pytest.fixture(autouse=True)
def _handled() -> Iterator[None]:
    """Whoever started the tests may ignore signals."""
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(monkeypatch: pytest.MonkeyPatch, script: str, runs: int = 3, at_once: int = 2) -> dict[int, Any]:
    monkeypatch.setattr(module, "command", lambda: [sys.executable, "-S", "-c", CHILD + script])
    made = {seed: SeedRun(RunConfig(name=f"run-{seed}", seed=seed), False, False, False, {}) for seed in range(runs)}
    return dict(train_side_by_side(made, at_once))


def events() -> list[str]:
    return Path("log").read_text().split()


def test_two_at_a_time_in_their_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
wait_for(f"start{seed ^ 1}")  # both of a pair run
answer(result={"seed": seed})
log("end")
"""
    results = train(monkeypatch, script, runs=4)
    assert results == {seed: {"seed": seed} for seed in range(4)}
    running, starts = set(), []
    for event in events():
        name, seed = event[:-1], event[-1]
        starts += [seed] if name == "start" else []
        running ^= {seed}
        assert len(running) <= 2
    assert [set(starts[:2]), set(starts[2:])] == [{"0", "1"}, {"2", "3"}]


def test_lines_are_shown_with_their_seed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
print("one", "two\\rthree", sep="\\n")
print("a warning", file=sys.stderr)
answer(result={})
"""
    train(monkeypatch, script, runs=2)
    out, err = capsys.readouterr()
    for seed in (0, 1):
        assert [line for line in out.splitlines() if f"seed {seed}" in line] == [
            f"seed {seed} | {line}" for line in ("one", "two", "three")
        ]
    assert sorted(err.splitlines()) == ["seed 0 | a warning", "seed 1 | a warning"]


def test_output_that_cannot_be_shown_holds_nobody_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        results = train(monkeypatch, 'print("x" * 100 + "\\n" * 100_000); answer(result={})', runs=2)
    assert results == {0: {}, 1: {}}


def test_after_a_failure_the_others_are_stopped_and_none_is_started(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
if seed == 0:
    until_stopped()
wait_for("ready0")
answer(error={"user": {"what": "no", "where": "outer.lr", "allowed": "less"}})
"""
    with pytest.raises(UserError) as caught:
        train(monkeypatch, script)
    assert str(caught.value) == "outer.lr: no; allowed: less"
    assert sorted(events()) == ["ready0", "start0", "start1", "stopped0"]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process of run-0 was ended by SIGKILL"),
        ("sys.exit(3)", "the process of run-0 ended with exit code 3"),
    ],
)
def test_a_process_that_ends_without_an_answer_has_failed(
    here: Path, monkeypatch: pytest.MonkeyPatch, end: str, said: str
) -> None:
    with pytest.raises(WorkerError, match=said):
        train(monkeypatch, end, at_once=1)
    assert events() == ["start0"]


def test_a_child_that_was_stopped_by_others_stops_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
if seed == 1:
    wait_for("ready0")
    answer(stopped=signal.SIGHUP)
else:
    until_stopped()
"""
    with pytest.raises(Stopped) as caught:
        train(monkeypatch, script)
    assert caught.value.exit_code == 129
    assert "stopped0" in events()


@pytest.mark.parametrize("times", [1, 2])
def test_signals_are_passed_on_as_often_as_they_arrive(here: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    def interrupt() -> None:
        for count in range(times):
            for _ in until(30, "the children did not notice"):
                seen = events() if (here / "log").exists() else []
                if {"ready0", "ready1"} <= set(seen) and seen.count("stopped0") == seen.count("stopped1") == count:
                    break
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Stopped) as caught:
        train(monkeypatch, f"until_stopped({times})")
    thread.join()
    assert caught.value.signum == signal.SIGINT
    assert sorted(events()) == sorted(["start0", "start1", "ready0", "ready1", *["stopped0", "stopped1"] * times])


@pytest.mark.parametrize(
    "error",
    [
        UserError("no", where="outer.lr", allowed="less"),
        WorkerError("shard 1 failed"),
        DistmetaError("storage is unavailable"),
        FileNotFoundError(2, "No such file or directory", "net.py"),
    ],
)
def test_errors_are_raised_as_they_were(error: Exception) -> None:
    again = error_from_json(json.loads(json.dumps(error_to_json(error))))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_other_errors_say_where_they_were_raised() -> None:
    try:
        raise ZeroDivisionError("nothing to divide by")
    except ZeroDivisionError as error:
        again = error_from_json(error_to_json(error))
    assert type(again) is WorkerError
    assert "ZeroDivisionError: nothing to divide by" in str(again) and Path(__file__).name in str(again)


def test_a_refused_path_stays_one() -> None:
    error = DistmetaError("no checkpoint can be written")
    error.__cause__ = PermissionError("runs")
    assert isinstance(error_from_json(error_to_json(error)).__cause__, PermissionError)
