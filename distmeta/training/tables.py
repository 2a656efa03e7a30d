"""Train the cells of a table, each with several seeds, and score them.

    cell = row x column x seed       a run; what is finished is not run again
    view = one score of a cell       of its own test, or scored anew under changes

Rows that start from another one come in a later wave, when that one has its checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distmeta.config import RunConfig
from distmeta.config.load import change, load_config
from distmeta.config.space import override_of
from distmeta.config.table import Column, Row, Table, View, slug
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.files import write_file
from distmeta.program.program import threads_of
from distmeta.tracking import build_tracker
from distmeta.tracking.console import Progress
from distmeta.tracking.environment import hardware
from distmeta.training.run import end_status
from distmeta.training.seed_run import SeedRun
from distmeta.training.seeds import PARENT_TAG
from distmeta.training.table_result import Found, TableResult
from distmeta.training.table_scores import score_views, with_measures

_LENGTH = ("train.steps=", "train.budget_s=")
"""Changes that rows do without whose number of steps is a part of the method."""


@dataclass(frozen=True)
class TableOptions:
    """How to run a table.

    Attributes:
        folder: Where results and runs are kept.
        budget_s: Seconds of training of a cell whose row is timed; None: as the jobs say.
        seeds: Number of seeds, from 0 on.
        at_once: Number of cells at a time; more than one are processes of their own, of one worker each.
        address: Address of a Ray cluster for these; None starts one.
        overrides: Changes of all runs, after those of rows and columns.
        quiet: Print progress to standard error instead of standard output.
    """

    folder: Path
    budget_s: float | None = None
    seeds: int = 1
    at_once: int = 1
    address: str | None = None
    overrides: tuple[str, ...] = ()
    quiet: bool = False


@dataclass(frozen=True)
class Cell:
    """One run of a table; that of a shared row stands for all columns."""

    row: Row
    column: Column
    seed: int
    config: RunConfig

    @property
    def key(self) -> tuple[str, str, int]:
        return self.row.title, self.column.title, self.seed

    @property
    def views(self) -> list[View]:
        """Its scores."""
        if not self.row.shown:
            return []
        own, protocol = self.row.title, self.row.protocol
        return [replace(view, protocol=view.protocol or protocol) for view in self.column.views if view.is_of(own)]


@dataclass
class _Book:
    """What is finished, in a file that is written after each cell."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def opened(cls, path: Path) -> _Book:
        return cls(path, _content(path))

    def cell(self, cell: Cell) -> dict[str, Any]:
        """What is known of a cell."""
        cells: dict[str, Any] = self.content.setdefault("cells", {})
        found: dict[str, Any] = cells.setdefault(cell.config.name, {})
        return found

    def write(self, cell: Cell) -> None:
        """Write what is known of a cell; the others stay as they are in the file, which another command may write."""
        name, own = cell.config.name, self.cell(cell)
        self.content["cells"] = {**self.content["cells"], **_content(self.path).get("cells", {}), name: own}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}.part")
        write_file(beside, json.dumps(self.content, indent=1).encode())
        os.replace(beside, self.path)


def _content(path: Path) -> dict[str, Any]:
    """The content of a book; empty if there is none.

    Raises:
        UserError: It cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), allowed="a table's results") from None
    return content if isinstance(content, dict) else {}


def run_table(table: Table, source: Path, options: TableOptions) -> TableResult:
    """Train and score what is not finished, and gather all of it.

    A cell that fails is reported and left out; the others go on.

    Args:
        table: The table.
        source: Its file, to which the paths of the jobs are relative.
        options: Where, how long and how often.

    Raises:
        UserError: A job or a change cannot be used; nothing has been started then.
    """
    cells = cells_of(table, source, options)
    book = _Book.opened(options.folder / f"{table.name}.json")
    progress = Progress(len(cells), name=table.name, quiet=options.quiet)
    first = cells[0].config
    with contextlib.ExitStack() as stack:
        tracker = build_tracker(first.tracking)
        fields = {"table": table.name, "budget_s": options.budget_s, "seeds": options.seeds, "cells": len(cells)}
        parent = tracker.start(f"table-{table.name}", fields, book.content.get("run_id")) or None
        stack.push(lambda kind, error, trace: tracker.close(end_status(kind)))
        book.content["run_id"] = parent
        tags = {PARENT_TAG: parent} if parent else {}
        for wave in _waves(cells):
            _run_wave(wave, cells, book, options, tags, progress)
        result = TableResult(table, options.seeds, options.budget_s, _found(cells, book), parent)
        for path in result.write(options.folder):
            tracker.artifact(path, "table")
    return result


def cells_of(table: Table, source: Path, options: TableOptions) -> list[Cell]:
    """All cells, seed by seed, so that a run that is cut off has whole tables of fewer seeds.

    Raises:
        UserError: A job, a change or a measure cannot be used, or nothing is left to run.
    """
    jobs = {row.title: load_config(_path_of(row.job, source), row.changes) for row in table.rows}
    table = with_measures(table, source)
    starts = {row.start for row in table.rows}
    cells = [
        Cell(row, column, seed, _config_of(table, row, column, seed, jobs[row.title], options))
        for seed in range(options.seeds)
        for column in table.columns
        for row in table.rows
        if not row.shared or column is table.columns[0]
    ]
    used = [cell for cell in cells if cell.views or cell.row.title in starts]
    if not used:
        raise UserError("no row has a score in these columns", where=table.name, allowed="other rows or columns")
    return used


def _path_of(job: str, source: Path) -> str:
    file, colon, name = job.partition(":")
    return f"{(source.parent / file).resolve()}{colon}{name}"


def _config_of(table: Table, row: Row, column: Column, seed: int, job: RunConfig, options: TableOptions) -> RunConfig:
    of_column = ("", ()) if row.shared else (slug(column.title), column.changes)
    overrides = [each for each in options.overrides if row.timed or not each.startswith(_LENGTH)]
    changed = change(job, [*of_column[1], *overrides])
    name = "-".join(part for part in (table.name, slug(row.title), of_column[0], f"seed{seed}") if part)
    own = [f"seed={seed}", f"name={name}", override_of("checkpoint.path", str(options.folder.absolute() / "runs"))]
    if options.budget_s is not None and row.timed and changed.train.steps > 0:
        own.append(f"train.budget_s={options.budget_s}")
    if options.at_once > 1:
        own.append("runtime.executor=local")
    return change(changed, own)


def _waves(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in an order in which those that start from another one come after it, cut where one must wait."""
    depth: dict[str, int] = {}
    for row in dict.fromkeys(cell.row for cell in cells):
        depth[row.title] = 0 if row.start is None else depth[row.start] + 1
    levels = range(max(depth.values()) + 1)
    return [[cell for cell in cells if depth[cell.row.title] == level] for level in levels]


def _starts(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Name of a run -> the cell that it starts from."""
    by_key = {cell.key: cell for cell in cells}
    shared = {(cell.row.title, cell.seed): cell for cell in cells if cell.row.shared}
    return {
        cell.config.name: shared.get((cell.row.start, cell.seed))
        or by_key[cell.row.start, cell.column.title, cell.seed]
        for cell in cells
        if cell.row.start is not None
    }


def _run_wave(
    wave: Sequence[Cell],
    cells: Sequence[Cell],
    book: _Book,
    options: TableOptions,
    tags: Mapping[str, str],
    progress: Progress,
) -> None:
    """Train and score the cells of a wave."""
    starts, jobs = _starts(cells), []
    for cell in wave:
        start = None if cell.row.start is None else book.cell(starts[cell.config.name])
        if start is not None and "result" not in start:
            book.cell(cell)["error"] = f"'{cell.row.start}', which it starts from, has failed"
            continue
        changes = [] if start is None else [override_of("train.init_from", start["result"]["checkpoint"])]
        config = change(cell.config, changes)
        jobs.append((cell, SeedRun(config, True, False, options.quiet or options.at_once > 1, tags)))

    def shown(number: int, answer: Mapping[str, Any]) -> None:
        cell = jobs[number][0]
        found = book.cell(cell)
        found.pop("error", None)
        found.update(answer)
        book.write(cell)
        progress.note(f"{cell.config.name}: {answer.get('error') or _summary(answer)}")

    def run(number: int) -> Mapping[str, Any]:
        cell, request = jobs[number]
        return _run_cell(cell, request, book.cell(cell).get("views", {}))

    if options.at_once == 1 or len(jobs) < 2:
        for number in range(len(jobs)):
            shown(number, run(number))
        return
    from distmeta.runtime.ray.trials import run_trials  # Ray loads for seconds

    cpus = float(max(threads_of(cell.config) for cell, _ in jobs))
    at_once = min(options.at_once, len(jobs))
    run_trials(run, len(jobs), at_once=at_once, cpus=cpus, address=options.address, shown=shown)


def _run_cell(cell: Cell, request: SeedRun, known: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a run and its scores by view; `error` if it failed."""
    try:
        result = request.finished() or request.train()
        views = score_views(cell.views, result, request.config, known)
    except DistmetaError as error:
        return {"error": " ".join(str(error).split())}
    return {"result": dict(result), "views": views, "machine": hardware()}


def _summary(answer: Mapping[str, Any]) -> str:
    views = answer["views"].items()
    scores = [f"{title}: " * bool(title) + f"{view['metric']} {view['after']:.4f}" for title, view in views]
    return ", ".join(scores) or f"step {answer['result']['steps']}"


def _found(cells: Sequence[Cell], book: _Book) -> list[Found]:
    """What is known of every cell that has a line."""
    found = []
    for cell in cells:
        known = book.cell(cell)
        if cell.row.shown and known:
            views = {cell.column.label(view): known.get("views", {}).get(view.title) for view in cell.views}
            scores = {label: score for label, score in views.items() if score is not None}
            result, error, machine = (known.get(name) for name in ("result", "error", "machine"))
            found.append(Found(cell.row.title, cell.seed, scores, result, error, machine))
    return found
