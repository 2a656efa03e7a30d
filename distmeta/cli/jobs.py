"""`distmeta jobs`: write a first job file; look at the jobs of a Ray cluster, and stop them."""

from __future__ import annotations

import os
import shlex
import time
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from distmeta.cli.output import JsonOption, people_read, print_json, print_table, print_values
from distmeta.cli.submit import (
    RUN_KEY,
    AddressOption,
    address_of,
    connected,
    left_running,
    mlflow_link,
    require_success,
    show_log,
    wait_for_end,
)
from distmeta.cli.top import top
from distmeta.core.errors import UserError
from distmeta.core.files import write_file

FIRST_JOB = "first_job.py"
"""The file that `init` writes: a copy of the module of this package."""

app = typer.Typer(
    name="jobs",
    no_args_is_help=True,
    help="Write a first job file; look at the jobs of a Ray cluster, and stop them.",
)

_JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as `submit` and `list` print it.")]


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to write to; made if it does not exist.")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write first_job.py, a documented job to train and to change. It takes half a minute on one core."""
    path = folder / FIRST_JOB
    text = resources.files(__package__).joinpath(FIRST_JOB).read_text(encoding="utf-8")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made: {error.strerror}"
        raise UserError(what, where=str(folder), allowed="a folder, or a path where one can be made") from error
    if os.path.lexists(path) and not force:
        raise UserError("exists already", where=str(path), allowed="another DIR, or --force to overwrite it")
    write_file(path, text.encode())
    command = shlex.join(["distmeta", "train", str(path)])
    if as_json:
        print_json({"job": str(path), "command": command})
    else:
        print_values({"written": path, "train it": command})


@app.command("list")
def list_jobs(address: AddressOption = None, as_json: JsonOption = False) -> None:
    """List the cluster's jobs, the newest first."""
    with connected(address_of(address)) as client:
        jobs = [job for job in client.list_jobs() if job.submission_id]
    rows = [_describe(job) for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)]
    if as_json:
        print_json({"jobs": rows})
    elif rows:
        print_table([{name: value for name, value in row.items() if name != "ended"} for row in rows])
    else:
        print("there are no jobs")


@app.command()
def status(job: _JobArgument, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Show a job's status and its run's address in MLflow."""
    with connected(address_of(address)) as client:
        details = client.get_job_info(job)
        link = mlflow_link(client.get_job_logs(job))
    row = {**_describe(details), "mlflow": link, "message": (details.message or "").split("\n")[0]}
    if as_json:
        print_json(row)
    else:
        print_values(row)


@app.command()
def logs(
    job: _JobArgument,
    address: AddressOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends, and end with 0 if it succeeded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a job has printed."""
    ended = None
    with people_read(as_json), connected(address_of(address)) as client:
        if follow:
            client.get_job_info(job)
            with left_running(job):
                ended = show_log(client, job)
        else:
            print(client.get_job_logs(job), end="")
        now = client.get_job_status(job)
    if as_json:
        print_json({"job": job, "status": now.value})
    require_success(job, ended)


app.command()(top)


@app.command()
def stop(job: _JobArgument, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """End a job. Submitted again, it goes on from its last checkpoint."""
    with connected(address_of(address)) as client:
        client.stop_job(job)
        status = wait_for_end(client, job)
    if as_json:
        print_json({"job": job, "status": status})
    else:
        print(f"{job} has {status.lower()}")


def _describe(details: Any) -> dict[str, Any]:
    """The row of a job, Ray's `JobDetails`, in the list of jobs."""
    return {
        "job": details.submission_id,
        "run": (details.metadata or {}).get(RUN_KEY),
        "status": details.status.value,
        "started": _time(details.start_time),
        "ended": _time(details.end_time),
    }


def _time(milliseconds: int | None) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000)) if milliseconds else None
