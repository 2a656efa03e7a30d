"""`distmeta train`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from distmeta.cli.output import JsonOption, SetOption, choose, people_read, print_json, print_table, print_values
from distmeta.config import RunConfig
from distmeta.config.load import load_config, to_yaml
from distmeta.core.collector import resume as resume_collector
from distmeta.core.errors import UserError
from distmeta.core.paths import in_ray_job
from distmeta.core.signals import Stopped, held
from distmeta.tracking import build_tracker
from distmeta.tracking.flatten import masked_config
from distmeta.tracking.uris import mask_uri, tracking_uri

if TYPE_CHECKING:
    from distmeta.training.result import TrainResult
    from distmeta.training.seeds import SeedsResult

EXAMPLES = """\b
Examples (`distmeta jobs init` writes first_job.py):
  distmeta train first_job.py
  distmeta train first_job.py --set runtime.executor=ray --set train.steps=500
  distmeta train first_job.py --seeds 5
  distmeta train first_job.py --dry-run > run.yaml
  distmeta train run.yaml --resume --json
"""
MLFLOW_LABEL = "mlflow"
"""Begins the line with the address of the run that a job prints."""


def train(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="A job in Python, whose function config() returns a RunConfig; FILE.py:NAME, to call another function "
            "of it; or a configuration in YAML or JSON.",
        ),
    ],
    overrides: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint, to the same bits as without a stop.")
    ] = False,
    auto_resume: Annotated[
        bool | None,
        typer.Option(
            "--auto-resume/--no-auto-resume",
            help="Go on from the run's last checkpoint if it has one, and start otherwise. The default in a Ray job.",
        ),
    ] = None,
    which: Annotated[
        str, typer.Option(metavar="NAME", help="Checkpoint to resume from: latest, or previous (the one before it).")
    ] = "latest",
    anew: Annotated[
        bool, typer.Option("--anew", help="Start again although the run has checkpoints; they are moved to NAME~1.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Train N runs, NAME-seed0, NAME-seed1, ..., and show their mean and its 95% interval over seeds. With "
            "--resume, seeds that are finished are not run again.",
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="With --seeds: train K of them at a time, each in a process of its own. By default as many as the "
            "cores have room for if runtime.executor is local, else 1. The results are the same.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the configuration, print all of it as YAML, and start nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Meta-train a learner, measure it on unseen tasks and save it.

    Prints the run's id in MLflow, the last checkpoint, the digest of its meta-parameters, the tasks per second and the
    result of the test. The same configuration gives the same digest whatever the number of workers.
    """
    chosen = cast(Literal["latest", "previous"], choose(which, ("latest", "previous"), "--which"))
    if anew and (resume or auto_resume):
        raise UserError("given together with --resume", where="--anew", allowed="one of them")
    if chosen != "latest" and not resume:
        raise UserError("given without --resume", where="--which", allowed="--resume --which previous")
    if chosen != "latest" and seeds is not None:
        raise UserError("given together with --seeds", where="--which", allowed="--resume --seeds N")
    if at_once is not None and seeds is None:
        raise UserError("given without --seeds", where="--at-once", allowed="--seeds N --at-once K")
    if not dry_run and not as_json:
        print(f"reading {job}", flush=True)  # the first sign of life: loading libraries takes seconds
    config = load_config(job, overrides or ())
    if dry_run:
        with held():
            from distmeta.server.outer import check_optimizer  # imports torch, which knows the optimizers

        check_optimizer(config.outer)
        if as_json:
            print_json({"config": masked_config(config.model_dump(mode="json"))})
        else:
            print(to_yaml(masked_config(config.model_dump(mode="json"))), end="")
        return
    automatic = auto_resume or (auto_resume is None and in_ray_job() and not anew)
    resuming: bool | Literal["auto"] = True if resume else "auto" if automatic else False
    with people_read(as_json):
        if in_ray_job() and config.tracking.kind == "mlflow":
            print(
                f"{MLFLOW_LABEL}  {mask_uri(tracking_uri(config.tracking.uri, config.tracking.uri_file))}", flush=True
            )
        build_tracker(config.tracking).prepare()
        if not as_json:
            print(f"{config.name}: loading torch", flush=True)
        try:
            result = _train(config, chosen, seeds, at_once, resuming, anew)
        except Stopped as stopped:
            changes = [part for override in overrides or () for part in ("--set", override)]
            numbers = {"--seeds": seeds, "--at-once": at_once}
            options = [part for name, number in numbers.items() if number is not None for part in (name, str(number))]
            again = mask_uri(shlex.join(["distmeta", "train", job, *changes, *options, "--resume"]))
            raise stopped.explained(f"continue with `{again}`") from None
    content = result.to_json()
    if as_json:
        print_json(content)
    elif seeds is None:  # the scores have been shown as a table
        print_values({name: value for name, value in content.items() if name not in ("meta_test", "scores")})
    else:
        print_table(result.rows(), title=f"{config.name}: unseen test tasks, {seeds} seeds")


def _train(
    config: RunConfig,
    which: Literal["latest", "previous"],
    seeds: int | None,
    at_once: int | None,
    resume: bool | Literal["auto"],
    anew: bool,
) -> TrainResult | SeedsResult:
    with held():
        from distmeta.training.run import train as train_one
        from distmeta.training.seeds import train_seeds

    resume_collector()
    if seeds is not None:
        return train_seeds(config, seeds=seeds, at_once=at_once, resume=resume, anew=anew)
    return train_one(config, resume=resume, which=which, anew=anew)
