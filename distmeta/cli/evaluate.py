"""`distmeta evaluate`."""

from __future__ import annotations

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
)
from distmeta.config.bounds import MAX_SEED, MAX_TASKS
from distmeta.core.collector import resume as resume_collector
from distmeta.core.signals import held

_SPLITS = ("train", "val", "test")

EXAMPLES = """\b
Examples:
  distmeta evaluate runs/first_job
  distmeta evaluate runs/first_job --which best --tasks 1000 --json
  distmeta evaluate runs/first_job --set tasks.shots=5
"""


def evaluate(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint, or the folder of a run.")],
    tasks: Annotated[int, typer.Option(min=2, max=MAX_TASKS, metavar="N", help="Unseen tasks to adapt to.")] = 600,
    split: Annotated[
        str, typer.Option(metavar="NAME", help=f"Classes to draw the tasks from: {', '.join(_SPLITS)}.")
    ] = "test",
    which: Annotated[str, typer.Option(metavar="NAME", help=f"Checkpoint of the run: {', '.join(WHICH)}.")] = "latest",
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_SEED,
            metavar="N",
            help="Seed of the tasks; the same seed, the same tasks (default: the run's).",
        ),
    ] = None,
    overrides: SetOption = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a checkpoint on unseen tasks, before adaptation and after each inner step.

    Reports the mean over tasks and its 95% interval. Where batch norm makes the two differ: transductive, with
    statistics of the query batch, and inductive, with those of the support set alone.
    """
    choose(split, _SPLITS, "--split")
    if not as_json:
        print(f"loading torch and {checkpoint}", flush=True)  # the first sign of life
    chosen = which_option(which, checkpoint)
    with held():
        from distmeta.training.evaluate import evaluate as evaluate_checkpoint

    resume_collector()
    with people_read(as_json):
        result = evaluate_checkpoint(
            checkpoint,
            which=chosen,
            split=split,
            tasks=tasks,
            seed=seed,
            overrides=overrides or [],
            trust_code=trust_code,
        )
    if as_json:
        print_json(result.to_json())
    else:
        print_table(result.rows(), title=f"{checkpoint}: {tasks} tasks of '{split}'")
