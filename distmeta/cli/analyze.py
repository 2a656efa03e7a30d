"""`distmeta analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distmeta.cli.output import (
    WHICH,
    JsonOption,
    SetOption,
    TrustOption,
    choose,
    people_read,
    print_json,
    print_table,
    which_option,
    write_result,
)
from distmeta.config.bounds import MAX_TASKS
from distmeta.core.collector import resume as resume_collector
from distmeta.core.signals import held

_PARTS = ("freezing", "adaptation", "training", "between")

EXAMPLES = """\b
Examples:
  distmeta analyze runs/first_job --out analysis
  distmeta analyze runs/first_job --what training
  distmeta analyze runs/first_job-seed0 runs/first_job-seed1
  distmeta analyze runs/first_job --set tracking.kind=mlflow
"""


def analyze(
    paths: Annotated[list[str], typer.Argument(metavar="CKPT...", help="Checkpoints, or folders of runs.")],
    what: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"What to find out: {', '.join(_PARTS)}. May be repeated."),
    ] = None,
    tasks: Annotated[int, typer.Option(min=2, max=MAX_TASKS, metavar="N", help="Unseen tasks to adapt to.")] = 100,
    which: Annotated[str, typer.Option(metavar="NAME", help=f"Checkpoint of a run: {', '.join(WHICH)}.")] = "latest",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write analysis.json and a PNG of each part into this folder.")
    ] = None,
    overrides: SetOption = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find out what meta-learning learnt: features that are reused, or that adapt quickly.

    Of one checkpoint: the score with more and more blocks frozen in the inner loop (freezing), and each layer before
    the inner loop against itself after it (adaptation). Of a run's folder: each layer at several steps (training). Of
    several checkpoints of one network, such as other seeds and methods: each layer in all of them (between). Layers
    are compared by linear CKA and by canonical correlations, on the queries of unseen tasks.
    """
    for name in what or ():
        choose(name, _PARTS, "--what")
    if not as_json:
        print(f"loading torch and {', '.join(paths)}", flush=True)  # the first sign of life
    choices = [which_option(which, path) for path in paths]
    with held():
        from distmeta.training.analysis import analyze as analyze_checkpoints

    resume_collector()
    with people_read(as_json):
        result = analyze_checkpoints(
            paths, what=what or (), which=choices[0], tasks=tasks, overrides=overrides or [], trust_code=trust_code
        )
        written = [] if out is None else write_result(out, "analysis.json", result)
    if as_json:
        print_json({**result.to_json(), **({"out": [str(path) for path in written]} if written else {})})
        return
    for name, part in result.parts.items():
        print_table([row.row() for row in part.rows], title=f"{name}: {tasks} tasks of 'test'")
        if part.left_out:
            print(f"too wide to compare: {', '.join(part.left_out)}")
    for path in written:
        print(path)
    if result.address:
        print(f"mlflow  {result.address}")
