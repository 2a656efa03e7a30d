"""`distmeta checkpoint`: look at checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from distmeta.cli.output import WHICH, JsonOption, print_json, print_table, which_option

if TYPE_CHECKING:
    from distmeta.checkpoint import Checkpoint

app = typer.Typer(
    name="checkpoint", no_args_is_help=True, help="Look at checkpoints: their digests, what they hold, which there are."
)

_PathArgument = Annotated[
    str, typer.Argument(metavar="PATH", help="A checkpoint, or the folder of a run; a local path or an fsspec URL.")
]
_WhichOption = Annotated[str, typer.Option(help=f"Checkpoint of the run: {', '.join(WHICH)}.")]


@app.command()
def digest(path: _PathArgument, which: _WhichOption = "latest", as_json: JsonOption = False) -> None:
    """Print the sha256 of the meta-parameters: equal exactly if they are bit-identical."""
    found = _load(path, which)
    from distmeta.core.tensors import digest as digest_of

    value = digest_of(found.params)
    if as_json:
        print_json({"checkpoint": found.path, "step": found.step, "digest": value})
    else:
        typer.echo(value)


@app.command()
def show(path: _PathArgument, which: _WhichOption = "latest", as_json: JsonOption = False) -> None:
    """Show what a checkpoint holds: its step, score, size and configuration."""
    found = _load(path, which)
    from distmeta.tracking.flatten import masked

    content = {
        "checkpoint": found.path,
        "step": found.step,
        "digest": found.digest,
        "run_id": found.run_id,
        "score": found.score,
        "parameters": sum(tensor.numel() for tensor in found.params.values()),
        "signature": asdict(found.signature),
        "progress": dict(found.progress),
        "config": masked(found.recorded),
    }
    if as_json:
        print_json(content)
    else:
        rows = [{"field": name, "value": value} for name, value in _flat(content)]
        print_table(rows, title=found.config.name)


@app.command("list")
def list_(
    root: Annotated[
        str, typer.Argument(metavar="ROOT", help="A folder of runs, or of one run; a local path or an fsspec URL.")
    ] = "runs",
    as_json: JsonOption = False,
) -> None:
    """List the checkpoints of the runs in a folder."""
    from distmeta.checkpoint import summaries

    rows = [asdict(summary) for summary in summaries(root)]
    if as_json:
        print_json({"checkpoints": rows})
    else:
        print_table([{**row, "digest": row["digest"][:12], "best": "best" if row["best"] else ""} for row in rows])


def _load(path: str, which: str) -> Checkpoint:
    """Read a checkpoint; torch is imported here, not when the command line starts."""
    chosen = which_option(which, path)
    from distmeta.checkpoint import load

    return load(path, chosen)


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value with its dotted name."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
