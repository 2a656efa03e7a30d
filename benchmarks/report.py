"""Output of a benchmark: the machine's line, progress, tables, goals and a JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import busy_share
from distmeta.cli.output import people_read, print_json
from distmeta.tracking.environment import hardware, hardware_line

_WIDTH = 140  # room for every column
_BUSY = 0.15


class Report:
    """The output of one benchmark. Prints the machine, with a warning where other processes keep it busy.

    Args:
        name: Of the JSON file, without its suffix.
        out: Folder of the file; None writes none.
        device: Device to describe.

    Attributes:
        title: The machine in one line.
        content: What was written last.
    """

    def __init__(self, name: str, out: Path | None, device: str = "cpu") -> None:
        self._name, self._out = name, out
        self._machine, self._busy = hardware(device), busy_share()
        self.title = hardware_line(self._machine)
        self.content: dict[str, Any] = {}
        print(self.title)
        if self._busy > _BUSY:
            print(f"other processes keep {self._busy:.0%} of the processors busy: the numbers will be too slow")
        sys.stdout.flush()

    def write(self, **content: Any) -> None:
        """Add the machine to the content and write NAME.json."""
        self.content = {"machine": self._machine, "busy_before": self._busy, **content}
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
            (self._out / f"{self._name}.json").write_text(json.dumps(self.content, indent=1))


@contextmanager
def reporting(name: str, out: Path | None, as_json: bool, device: str = "cpu") -> Iterator[Report]:
    """The report of a command. With `as_json`, prints go to stderr, and the content to stdout at the end."""
    with people_read(as_json):
        report = Report(name, out, device)
        yield report
    if as_json:
        print_json(report.content)


@dataclass(frozen=True)
class Goal:
    """A measured value and its goal, an upper bound unless `at_least`. As text, it says whether the goal is reached."""

    what: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        reached = "reached" if self.reached else "NOT reached"
        return f"{self.what}: {self.value:.3g}; goal {'>=' if self.at_least else '<='} {self.bound:g}: {reached}"


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def print_wide(rows: Sequence[Mapping[str, object]]) -> None:
    """Print a table of numbers at its full width, also into a pipe or a narrow terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, _WIDTH)
    console.print(table)
