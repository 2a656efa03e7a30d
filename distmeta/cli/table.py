"""`distmeta table`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distmeta.cli.output import JsonOption, SetOption, people_read, print_json, print_table
from distmeta.config.load import load_table
from distmeta.core.collector import resume as resume_collector
from distmeta.core.errors import DistmetaError
from distmeta.core.signals import Stopped, held
from distmeta.tracking.uris import mask_uri

if TYPE_CHECKING:
    from distmeta.training.tables import TableOptions

EXAMPLES = """\b
Examples, with a file whose function table() returns a distmeta.config.table.Table:
  distmeta table FILE.py --budget 20 --seeds 3
  distmeta table FILE.py --budget 1 --rows maml,protonet --columns 5_way_1_shot
  distmeta table FILE.py:OTHER --at-once 8 --address auto

The same command again does what is left, and prints what there is. A checkout has tables in jobs/tables.
"""
_OUT = Path("runs/tables")


def table(
    source: Annotated[
        str, typer.Argument(metavar="TABLE", help="A table file, whose table() is called, or FILE.py:NAME.")
    ],
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=1e6,
            metavar="MINUTES",
            help="Minutes of training of each cell (default: as the jobs say).",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Seeds of each cell, from 0 on.")] = 1,
    rows: Annotated[
        list[str] | None, typer.Option(metavar="ROW[,ROW]", help="Only these rows: `maml` means `MAML`.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="COLUMN[,COLUMN]", help="Only these columns.")] = None,
    at_once: Annotated[
        int,
        typer.Option(min=1, max=10_000, metavar="K", help="Cells at a time, each in a process of its own if over 1."),
    ] = 1,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster of these processes (default: a local one).")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", show_default=False, help="Folder of results and runs (default: `tables` in that of runs)."
        ),
    ] = _OUT,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and score the cells of a table: rows are jobs, columns are changes of them.

    What is finished is not run again, and a run that was cut off goes on from its newest checkpoint. NAME.md and
    NAME.png in the folder show the table beside the published one; in MLflow all runs lie below one.
    """
    found, path = load_table(source)
    part = found.part(_split(rows), _split(columns))
    with people_read(as_json):
        with held():
            from distmeta.training.tables import TableOptions, run_table
        resume_collector()
        budget_s = None if budget is None else 60.0 * budget
        options = TableOptions(out, budget_s, seeds, at_once, address, tuple(overrides or ()), quiet=as_json)
        try:
            result = run_table(part, path, options)
        except Stopped as stopped:
            raise stopped.explained(f"continue with `{mask_uri(_again(source, options, rows, columns))}`") from None
    if as_json:
        print_json(result.to_json())
    else:
        print_table(result.rows(), title=found.title)
    if result.failed:
        first = result.failed[0]
        raise DistmetaError(f"{len(result.failed)} cells failed; {first.row}, seed {first.seed}: {first.error}")


def _split(names: list[str] | None) -> list[str] | None:
    return None if names is None else [each for name in names for each in name.split(",") if each]


def _again(source: str, options: TableOptions, rows: list[str] | None, columns: list[str] | None) -> str:
    """The command that does what is left."""
    given = {
        "--budget": None if options.budget_s is None else f"{options.budget_s / 60:g}",
        "--seeds": options.seeds if options.seeds > 1 else None,
        "--at-once": options.at_once if options.at_once > 1 else None,
        "--address": options.address,
        "--rows": None if rows is None else ",".join(rows),
        "--columns": None if columns is None else ",".join(columns),
        "--out": None if options.folder == _OUT else options.folder,
    }
    parts = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    changes = [part for override in options.overrides for part in ("--set", override)]
    return shlex.join(["distmeta", "table", source, *parts, *changes])
