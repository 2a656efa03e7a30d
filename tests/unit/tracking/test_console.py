"""Console output: progress and the table of scores."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from distmeta.tracking.console import LINE_EVERY_S, Progress


@dataclass(frozen=True)
class FakeScore:
    protocol: str = "transductive"
    metric: str = "accuracy"
    points: tuple[int, ...] = (0, 1, 5)
    mean: tuple[float, ...] = (0.2, 0.7, 0.912345)
    interval: tuple[float, ...] = (0.01, 0.01, 0.0078)
    tasks: int = 600


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_are_spaced_and_complete(clock: FakeClock) -> None:
    console = Console(file=io.StringIO(), width=200)
    metrics = {"query_loss": 0.51234, "query_accuracy": 0.8125, "tasks_per_s": 98.34, "worker_busy_share": 0.9}
    with Progress(100, console=console, clock=clock) as progress:
        for step in range(1, 101):
            progress.update(step, metrics)
            clock.now += LINE_EVERY_S / 10
    lines = text(console).splitlines()
    assert lines[0] == "step 1/100  query_loss 0.5123  query_accuracy 81.25%  98.34 tasks/s"
    assert lines[1].startswith("step 11/100") and lines[1].endswith("left 0:00:44")
    assert lines[-1].startswith("step 100/100")
    assert len(lines) == 11


def test_quiet_shows_no_progress_and_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, quiet=True) as progress:
        progress.update(1, {"loss": 1.0})
        progress.note("a note [with brackets]")
        progress.table("title", [FakeScore()])
    output = capsys.readouterr()
    assert output.out == ""
    assert (
        "a note [with brackets]" in output.err and "91.23%" in output.err and "step" not in output.err.split("title")[0]
    )


def test_a_terminal_shows_a_progress_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    with Progress(10, name="demo", console=console) as progress:
        progress.update(4, {"loss": 0.25, "tasks_per_s": 12.0})
        progress.note("step 4: saved")
    output = text(console)
    assert "4/10" in output and "demo" in output and "loss 0.25" in output and "step 4: saved" in output


def test_the_table_has_accuracy_before_and_after() -> None:
    console = Console(file=io.StringIO(), width=120)
    Progress(1, console=console).table("demo: unseen tasks", [FakeScore(), FakeScore("inductive", "loss")])
    lines = text(console).splitlines()
    assert lines[0].strip() == "demo: unseen tasks"
    row = next(line for line in lines if "transductive" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "transductive", "accuracy", "20.00%", "91.23%", "± 0.78%", "5", "600",
    ]  # fmt: skip
    assert any("0.9123" in line for line in lines if "inductive" in line)


def test_without_scores_there_is_no_table() -> None:
    console = Console(file=io.StringIO())
    Progress(1, console=console).table("title", [])
    assert text(console) == ""
