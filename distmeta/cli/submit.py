"""`distmeta submit`: send a job to a Ray cluster, whose head runs the driver. And the client of `distmeta jobs`.

Ray's job server takes the working folder and a command line. The token comes from Ray's own variables (RAY_AUTH_MODE,
RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH) or ~/.ray/auth_token.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from distmeta.cli.output import JsonOption, SetOption, one_line, people_read, print_json, print_values
from distmeta.cli.packing import collect, write_package
from distmeta.cli.train import MLFLOW_LABEL
from distmeta.config import RunConfig
from distmeta.config.load import load_config, split_source
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.logs import quiet
from distmeta.core.paths import data_home
from distmeta.core.signals import Stopped
from distmeta.tracking.uris import mask_uri

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

EXAMPLES = """\b
Examples:
  distmeta submit first_job.py --set runtime.executor=ray --address http://HEAD:8265 --follow
  distmeta submit JOB --set runtime.workers=16 --env OMP_NUM_THREADS=1
  distmeta jobs list
"""
RUN_KEY = "distmeta_run"
"""The job's metadata under this key is the name of its run."""
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
REACH_TIMEOUT_S = 10.0
START_TIMEOUT_S = 30.0
POLL_S = 0.5
# Time for a job that is asked to stop to close its run in MLflow; Ray would kill it after three seconds.
_STOP = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
_LINK = re.compile(rf"^(?:{MLFLOW_LABEL}|address) +(\S+)", re.MULTILINE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")

AddressOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help=f"The cluster's dashboard, http://HEAD:8265 (default: {ADDRESS_VARIABLE})."),
]


def submit(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="A job or configuration as for `train`, below the working directory.")
    ],
    overrides: SetOption = None,
    address: AddressOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's output, and end when it ends: with 0 if it succeeds.")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A variable for the job and its workers; may be repeated. Who may use the cluster can read it.",
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that is sent, without its data.")
    ] = Path(),
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Names to leave out besides, e.g. '*.csv'. May be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a job to a Ray cluster.

    The configuration is checked here first. The cluster's head then runs `distmeta train JOB --auto-resume`: a job that
    is submitted again under the same run name goes on from its last checkpoint. Relative checkpoint paths lie in
    $DISTMETA_RUNS of the head, MLflow is the one that MLFLOW_TRACKING_URI names there.

    What git ignores, data, runs, environments, archives, names with a leading dot and files over 20 MiB are not sent;
    distmeta itself is, when it runs from a checkout.
    """
    config = load_config(job, overrides or ())
    variables = _variables(env or ())
    url = address_of(address)
    data = [data_home(), Path(config.checkpoint.path), *map(Path, filter(None, [os.environ.get("DISTMETA_DATA")]))]
    contents = collect(working_dir, excludes=exclude or (), keep_out=data)
    file, function = split_source(job)
    command = _command(contents.name_of(str(file)), function, overrides or ())
    with people_read(as_json), connected(url) as client:
        for names, why in ((contents.too_large, "for their size"), (contents.links, "links to what is not sent")):
            if names:
                print(f"not sent, {why}: {', '.join(names)}", file=sys.stderr)
        _refuse_twice(client, config)
        with tempfile.TemporaryDirectory(prefix="distmeta-submit-") as folder:
            package = Path(folder) / "working_dir.zip"
            write_package(contents, package)
            job_id = client.submit_job(
                entrypoint=command,
                runtime_env={"working_dir": str(package), "env_vars": {**_STOP, **variables}},
                metadata={RUN_KEY: config.name},
            )
        submitted = {"job": job_id, "run": config.name, "dashboard": f"{mask_uri(url)}/#/jobs/{job_id}"}
        print_values({**submitted, "log": f"distmeta jobs logs {job_id} --follow"})
        sys.stdout.flush()
        with left_running(job_id):
            status = show_log(client, job_id) if follow else None
            link = _mlflow(client, job_id, 0.0 if follow else START_TIMEOUT_S)
    if as_json:
        print_json({**submitted, "mlflow": link, "status": status or "SUBMITTED"})
    else:
        print_values({"mlflow": link or f"not known yet: distmeta jobs status {job_id}"})
    require_success(job_id, status)


# --- the cluster, also for `distmeta jobs` ---


def address_of(address: str | None) -> str:
    """The URL of the job server: the option's, else the variable's.

    Raises:
        UserError: Neither is set, or it is not an HTTP URL.
    """
    url, where = address or os.environ.get(ADDRESS_VARIABLE), "--address" if address else ADDRESS_VARIABLE
    if not url:
        allowed = f"http://HEAD:8265, here or in {ADDRESS_VARIABLE}"
        raise UserError("there is no cluster to ask", where="--address", allowed=allowed)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"'{mask_uri(url)}' is no job server", where=where, allowed="http://HEAD:8265")
    return parts.geturl().rstrip("/")


@contextlib.contextmanager
def connected(url: str) -> Iterator[JobSubmissionClient]:
    """A client of the job server at `url`. Errors of the client inside the block are raised as errors of one line.

    Raises:
        UserError: Nothing answers there, it is no Ray cluster, it refuses this user, or it has no such job.
        DistmetaError: The connection broke.
    """
    _require_ray(url)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    shown = mask_uri(url)
    try:  # Ray's import sets the levels of these loggers, so silence them after it
        with (
            quiet("ray.dashboard.modules.dashboard_sdk"),
            quiet("ray.dashboard.modules.job.sdk"),
            _client_settings(url),
        ):
            yield JobSubmissionClient(url)
    except AuthenticationError as error:
        refused = "the token is wrong" if error.message.startswith("Authentication failed") else "there is no token"
        raise UserError(
            f"{shown} asks for the cluster's token, and {refused}",
            where="RAY_AUTH_TOKEN",
            allowed="the token, or its file in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; RAY_AUTH_MODE not 'disabled'",
        ) from error
    except RuntimeError as error:  # the client's error for a response other than 200
        raise UserError(mask_uri(one_line(error))[:300], where=shown, allowed="a job of this cluster") from error
    except (OSError, ValueError) as error:
        raise DistmetaError(f"{shown} does not answer any more: {mask_uri(one_line(error))[:200]}") from error


def show_log(client: JobSubmissionClient, job_id: str) -> str:
    """Print a job's log until the job ends; returns its last status: SUCCEEDED, FAILED or STOPPED."""
    from aiohttp import ClientError

    async def show() -> None:
        async for lines in client.tail_job_logs(job_id):
            print(lines, end="", flush=True)

    try:
        asyncio.run(show())
    except (ClientError, RuntimeError) as error:
        raise DistmetaError(
            f"the log cannot be followed any more ({one_line(error)[:200]}); {job_id} goes on"
        ) from error
    return wait_for_end(client, job_id)


def wait_for_end(client: JobSubmissionClient, job_id: str) -> str:
    """Wait until a job ends; returns its last status."""
    while not (status := client.get_job_status(job_id)).is_terminal():
        time.sleep(POLL_S)
    return status.value


@contextlib.contextmanager
def left_running(job_id: str) -> Iterator[None]:
    """On Ctrl-C inside the block, say that the job goes on."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        print(f"\n{job_id} goes on; end it by: distmeta jobs stop {job_id}", file=sys.stderr)
        raise


def require_success(job_id: str, status: str | None) -> None:
    """Raise a DistmetaError if a job has ended without success."""
    if status not in (None, "SUCCEEDED"):
        raise DistmetaError(f"{job_id} has {status.lower()}; see: distmeta jobs logs {job_id}")


def mlflow_link(log: str) -> str | None:
    """The run's address in MLflow, from the job's log; the last one printed is the most exact."""
    links = _LINK.findall(log)
    return mask_uri(links[-1]) if links else None


@contextlib.contextmanager
def _client_settings(url: str) -> Iterator[None]:
    """Make Ray's client use the job server at `url`, with a token if there is one."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    with quiet("ray._private.authentication"):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = url  # in Ray, the variable takes precedence over the argument
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before


def _require_ray(url: str) -> None:
    """Check that a Ray cluster answers at `url`: Ray's client has no timeout.

    Raises:
        UserError: Nothing answers, or something else than Ray.
    """
    shown = mask_uri(url)
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=REACH_TIMEOUT_S) as response:
            is_ray = b"ray_version" in response.read(10_000)
    except urllib.error.HTTPError as error:
        is_ray = error.code in (401, 403)
        error.close()
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"nothing answers at {shown} ({reason})",
            where="--address",
            allowed="the dashboard of a running cluster, http://HEAD:8265",
        ) from error
    if not is_ray:
        raise UserError(f"{shown} is not a Ray cluster", where="--address", allowed="its dashboard, http://HEAD:8265")


# --- the job ---


def _variables(settings: Sequence[str]) -> dict[str, str]:
    for setting in settings:
        if not _VARIABLE.match(setting):
            raise UserError(f"'{setting.split('=')[0]}' is not a variable", where="--env", allowed="NAME=VALUE")
    return dict(setting.split("=", 1) for setting in settings)


def _command(file: str, function: str | None, overrides: Sequence[str]) -> str:
    """The command line of the cluster's head that trains a job of the package that is sent."""
    if any(mask_uri(override) != override for override in overrides):
        raise UserError("a password is in it, and all users of a cluster can read a job's command", where="--set")
    sets = [part for override in overrides for part in ("--set", override)]
    job = file if function is None else f"{file}:{function}"
    return shlex.join(["python", "-m", "distmeta", "train", job, "--auto-resume", *sets])


def _refuse_twice(client: JobSubmissionClient, config: RunConfig) -> None:
    """Refuse a run that a job of the cluster trains already: both would write the same checkpoints."""
    for other in client.list_jobs():
        if (other.metadata or {}).get(RUN_KEY) == config.name and not other.status.is_terminal():
            raise UserError(
                f"'{config.name}' is being trained by {other.submission_id}",
                where="name",
                allowed=f"another name (--set name=...), or first: distmeta jobs stop {other.submission_id}",
            )


def _mlflow(client: JobSubmissionClient, job_id: str, timeout_s: float) -> str | None:
    """The run's address in MLflow, once the job has printed it; None after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        ended = client.get_job_status(job_id).is_terminal()
        link = mlflow_link(client.get_job_logs(job_id))
        if link or ended or time.monotonic() > deadline:
            return link
        time.sleep(POLL_S)
