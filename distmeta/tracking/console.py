"""Console output of a run: a progress bar on a terminal, plain lines elsewhere, and the final table of scores."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

LINE_EVERY_S = 5.0
_PLAIN_WIDTH = 120  # width of tables in files and pipes


class Scored(Protocol):
    """A metric before and after adaptation; `distmeta.program.scoring.Score` is one."""

    @property
    def protocol(self) -> str:
        """Source of the batch norm statistics: `transductive`, `inductive`."""

    @property
    def metric(self) -> str:
        """`accuracy`, `loss`, ..."""

    @property
    def points(self) -> Sequence[int]:
        """[P] numbers of inner steps, the first 0."""

    @property
    def mean(self) -> Sequence[float]:
        """[P] means over tasks."""

    @property
    def interval(self) -> Sequence[float]:
        """[P] half-widths of the 95% intervals of the means."""

    @property
    def tasks(self) -> int:
        """Number of tasks."""


class Progress:
    """Progress of a run, as a context manager.

    Args:
        total: Number of steps of the run.
        name: Name of the run.
        quiet: Show no progress; notes and tables go to standard error.
        console: Output; None uses standard output (standard error if `quiet`).
        clock: Monotonic clock in seconds, which spaces the lines.
    """

    def __init__(
        self,
        total: int,
        *,
        name: str = "",
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._name, self._quiet, self._clock = total, name, quiet, clock
        self._console = console or Console(file=sys.stderr if quiet else sys.stdout, highlight=False)
        if console is None and not self._console.is_terminal:
            self._console.width = _PLAIN_WIDTH
        self._bar: Bar | None = None
        self._first: tuple[float, int] | None = None
        self._next_line_s = -math.inf
        if self._console.is_terminal and not quiet:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(name or "training", total=total, values="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` steps are done, with the losses, accuracies and tasks per second in `metrics`."""
        if self._quiet:
            return
        values = _describe(metrics)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, values=values)
            return
        now = self._clock()
        first_s, first_step = self._first = self._first or (now, step)
        if now < self._next_line_s and step < self._total:
            return
        self._next_line_s = now + LINE_EVERY_S
        line = f"step {step}/{self._total}  {values}"
        if first_step < step < self._total:
            line += f"  left {_duration((now - first_s) / (step - first_step) * (self._total - step))}"
        self._print(line)

    def note(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self._print(text)

    def table(self, title: str, scores: Sequence[Scored]) -> None:
        """Print a table of scores before and after adaptation; nothing if there are no scores."""
        if scores:
            self._console.print(_score_table(title, scores))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _score_table(title: str, scores: Sequence[Scored]) -> Table:
    """A row for each score; accuracies are in percent."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("protocol", "metric"):
        table.add_column(name)
    for name in ("before adaptation", "after", "95% interval", "inner steps", "tasks"):
        table.add_column(name, justify="right")
    for score in scores:
        percent = score.metric == "accuracy"
        before, after, half = (_number(value, percent) for value in (score.mean[0], score.mean[-1], score.interval[-1]))
        points, tasks = str(score.points[-1]), str(score.tasks)
        table.add_row(score.protocol, score.metric, before, f"[bold]{after}[/bold]", f"± {half}", points, tasks)
    return table


def _describe(metrics: Mapping[str, float]) -> str:
    """Losses, accuracies and tasks per second in `metrics`, in this order."""
    losses = [f"{key} {value:.4g}" for key, value in metrics.items() if "loss" in key]
    accuracies = [f"{key} {_number(value, True)}" for key, value in metrics.items() if "accuracy" in key]
    rates = [f"{value:.4g} tasks/s" for key, value in metrics.items() if key == "tasks_per_s"]
    return "  ".join([*losses, *accuracies, *rates])


def _number(value: float, percent: bool) -> str:
    return f"{100.0 * value:.2f}%" if percent else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
