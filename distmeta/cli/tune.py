"""`distmeta tune`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from distmeta.cli.output import JsonOption, SetOption, people_read, print_json, print_table, print_values
from distmeta.config.bounds import MAX_SEED
from distmeta.config.load import load_config
from distmeta.config.space import MAX_TRIALS, load_space
from distmeta.core.collector import resume as resume_collector
from distmeta.core.signals import Stopped, held
from distmeta.tracking import build_tracker
from distmeta.tracking.uris import mask_uri

EXAMPLES = """\b
Examples, with a file space.yaml of one line for each field:
  algorithm.learner.phases.0.lr: {log_uniform: [1e-4, 1e-1]}
  algorithm.learner.phases.0.l2sp: {grid: [0, 0.01, 0.1]}

  distmeta tune first_job.py --space space.yaml
  distmeta tune first_job.py --space space.yaml --draws 8 --at-once 2
  distmeta tune first_job.py --space space.yaml --resume
"""


def tune(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job, as `distmeta train` takes it.")],
    space: Annotated[
        str,
        typer.Option(
            "--space",
            metavar="FILE",
            help="The search space, in YAML or JSON: field -> {KIND: [VALUES]}. Kinds: grid (all values), choice, "
            "uniform, log_uniform, integers (bounds).",
        ),
    ],
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_TRIALS,
            metavar="N",
            help="Settings to draw, each with every cell of the grids (default: 16; 1 if there are only grids).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Seed of the draws.")] = 0,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_TRIALS, metavar="K", help="Trials at a time (default: as many as the cores have room for)."
        ),
    ] = None,
    overrides: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a stop: trials that are finished are not run again.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Start again although there are checkpoints; they are moved to NAME~1.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose fields of a job by validation, and train it with the best values.

    Every setting is a run of one process, scored on the job's validation tasks (evaluation.tasks): of a job whose tasks
    have folds, they are those of k-fold cross-validation. Ray Tune has several run at a time. The best setting is then
    trained as `distmeta train` does, and tested. In MLflow all runs lie below one.
    """
    if not as_json:
        print(f"reading {job} and {space}", flush=True)  # the first sign of life
    config, values = load_config(job, overrides or ()), load_space(space)
    with people_read(as_json):
        build_tracker(config.tracking).prepare()
        with held():
            from distmeta.training.tuning import tune as tune_config
        resume_collector()
        try:
            result = tune_config(
                config, values, draws=draws, seed=seed, at_once=at_once, resume=resume, anew=anew, quiet=as_json
            )
        except Stopped as stopped:
            changes = [part for override in overrides or () for part in ("--set", override)]
            numbers = {"--draws": draws, "--seed": seed or None, "--at-once": at_once}
            options = [part for name, number in numbers.items() if number is not None for part in (name, str(number))]
            again = shlex.join(["distmeta", "tune", job, "--space", space, *changes, *options, "--resume"])
            raise stopped.explained(f"continue with `{mask_uri(again)}`") from None
    content = result.to_json()
    if as_json:
        print_json(content)
    else:
        print_table(result.rows(), title=f"{config.name}: settings, the best first")
        print_values({name: value for name, value in content["best"].items() if name not in ("meta_test", "scores")})
