"""`distmeta checkpoint`: look at checkpoints, and give what they hold to others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distmeta.cli.output import WHICH, JsonOption, print_json, print_table, which_option
from distmeta.core.errors import UserError

if TYPE_CHECKING:
    from distmeta.checkpoint import Checkpoint

app = typer.Typer(
    name="checkpoint",
    no_args_is_help=True,
    help="Look at checkpoints: their digests, what they hold, which there are; export them.",
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


@app.command()
def export(
    path: _PathArgument,
    peft: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder to write for the package peft; new, or empty.", dir_okay=True)
    ],
    which: _WhichOption = "latest",
    as_json: JsonOption = False,
) -> None:
    """Write the LoRA, IA3 or prefix parameters of a transformer as a folder that the package peft loads."""
    found = _load(path, which)
    from distmeta.methods.build import build_algorithm

    config, signature = found.config, found.signature
    if config.model.kind != "transformer":
        what = f"its network is of kind '{config.model.kind}', which has no parts of the package peft"
        raise UserError(what, where=path, allowed="a checkpoint with model.kind 'transformer'")
    from distmeta.models.petl.exchange import export_peft
    from distmeta.models.petl.transformer import Transformer

    network = build_algorithm(config, signature).learner.backbone
    assert isinstance(network, Transformer)
    facts = {"run": config.name, "steps": found.step, "validation score": found.score, "digest": found.digest}
    files = export_peft(network, found.averaged, peft, {key: fact for key, fact in facts.items() if fact is not None})
    if as_json:
        print_json({"checkpoint": found.path, "step": found.step, "folder": str(peft), "files": files})
    else:
        typer.echo(f"{peft}: {', '.join(files)}")


@app.command()
def architecture(path: _PathArgument, which: _WhichOption = "latest", as_json: JsonOption = False) -> None:
    """Show the weights of the operations of a mixed network, and the choice of the largest ones."""
    found = _load(path, which)
    model = found.config.model
    if model.kind != "mixed" or model.chosen is not None:
        what = f"its network is of kind '{model.kind}'" if model.kind != "mixed" else "its operations are chosen"
        raise UserError(what, where=path, allowed="a checkpoint with model.kind 'mixed', without model.chosen")
    from distmeta.models.mixed import mixing_weights

    weights = mixing_weights(model, found.averaged)
    chosen = [max(of_edge, key=lambda name: of_edge[name]) for of_edge in weights]
    edges = [f"{before} -> {after}" for before, after in model.edges]
    if as_json:
        content = {"checkpoint": found.path, "step": found.step, "edges": edges, "weights": weights, "chosen": chosen}
        print_json(content)
    else:
        pairs = zip(edges, weights, strict=True)
        print_table([{"edge": edge, **{name: f"{value:.3f}" for name, value in of.items()}} for edge, of in pairs])
        typer.echo(f"--set model.chosen=[{','.join(chosen)}]")


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
