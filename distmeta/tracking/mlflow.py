"""Runs recorded in MLflow: a SQLite file by default, any MLflow server or database otherwise.

Everything is on record before step 0: the resolved configuration (as parameters, and whole as `config.yaml` and
`config.json`), the git state, versions and the machine. Afterwards training only ever puts things in a queue
(`distmeta.tracking.sender`): a store that is slow or away costs no time and ends no run. What it has not taken when the
run ends is left in a folder whose name is told.

No step of a metric is missing or there twice, whatever dies:

- Values reach the store in the order in which they are logged, so its last step of a metric says which it has.
- What is still in the queue (`pending`) goes into each checkpoint. A run that goes on puts it in the queue again as it
  was, to the millisecond; a store keeps one of several equal values, so that it does not matter which it had taken.
- A run that goes on logs the steps since its checkpoint again. Those that the store has are left out: as it tells at
  the start, and for some minutes before each write, since the last request of a killed driver may be carried out late.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distmeta.core.errors import UserError
from distmeta.tracking import environment
from distmeta.tracking.base import Point, Tracker
from distmeta.tracking.flatten import MAX_TAG_LENGTH, flatten, masked
from distmeta.tracking.logged_model import log_checkpoint
from distmeta.tracking.sender import Sender, Upload
from distmeta.tracking.staging import Staging, keep
from distmeta.tracking.store import (
    FIRST_CALL_PATIENCE_S,
    find_experiment,
    is_outage,
    last_steps,
    open_store,
    store_errors,
    wait_out,
)
from distmeta.tracking.uris import DEFAULT_URI, inner_path, is_server, mask_uri, tracking_uri, unsent_folder

if TYPE_CHECKING:
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_PER_CALL = 100
_LATE_S = 180.0
_END_PATIENCE_S = 10.0
_FAILED_CLOSE_S = 30.0


class MlflowTracker(Tracker):
    """One MLflow run.

    Args:
        uri: Tracking URI; None takes MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db`.
        experiment: Name of the experiment; made if there is none.
        unsent: Folder for what the store has not taken when the run ends; None takes `mlflow-unsent`.
        interval_s: Time between two writes, in seconds.
        close_timeout_s: Longest time that `close` waits for the store, in seconds; half a minute if the run failed.
        patience_s: Longest time that a run that goes on waits for the store at its start, in seconds.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        *,
        unsent: Path | None = None,
        interval_s: float = 1.0,
        close_timeout_s: float = 300.0,
        patience_s: float = 600.0,
    ) -> None:
        self._uri, self._experiment = tracking_uri(uri), experiment
        self._unsent, self._interval_s = unsent or unsent_folder(), interval_s
        self._close_timeout_s, self._patience_s = close_timeout_s, patience_s

    def start(self, name: str, config: Mapping[str, object], resume: str | None, pending: Sequence[Point] = ()) -> str:
        """Open a run, or go on with `resume`, and record what it depends on. See `Tracker.start`.

        A run that goes on waits for a store that does not answer. A store that does not know the run `resume` gets a
        new one, with a warning and the tag `distmeta.continues`.

        Raises:
            UserError: The store cannot be opened.
        """
        patience_s = self._patience_s if resume else 0.0
        try:
            self._client = client = open_store(self._uri)
            self._experiment_id = wait_out(
                lambda: find_experiment(client, self._uri, self._experiment), max(patience_s, FIRST_CALL_PATIENCE_S)
            )
            self._run_id, self._recorded = wait_out(lambda: self._open_run(name, resume), patience_s)
            wait_out(lambda: self._describe(config), patience_s)
        except store_errors() as error:
            raise UserError(
                f"the store {mask_uri(self._uri)} cannot be used: {mask_uri(str(error))[:300]}",
                where="tracking.uri",
                allowed="a running MLflow server (http://HOST:PORT), a database (sqlite:///FILE), or kind none",
            ) from error
        self._staging = Staging()
        self._requeued = frozenset(pending)
        self._late_until_s = time.monotonic() + _LATE_S if resume else 0.0
        for point in pending:
            self._recorded[point.key] = max(point.step, self._recorded.get(point.key, -1))
        self._sender = Sender(self._write_points, is_outage, interval_s=self._interval_s)
        self._sender.put(pending)
        return self._run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue values. See `Tracker.log`."""
        now_ms = int(time.time() * 1000)
        new = {key: float(value) for key, value in metrics.items() if step > self._recorded.get(key, -1)}
        self._recorded.update(dict.fromkeys(new, step))
        self._sender.put(Point(key, value, now_ms, step) for key, value in new.items())

    def pending(self) -> list[Point]:
        """What is in the queue, and what the store has refused. See `Tracker.pending`."""
        return self._sender.pending()

    def tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags. See `Tracker.tags`."""
        from mlflow.entities import RunTag

        plain = {key: mask_uri(value)[:MAX_TAG_LENGTH] for key, value in tags.items()}
        staged = self._staging.text(json.dumps(plain), "tags.json")
        if staged is None:
            return
        client, run_id = self._client, self._run_id

        def send() -> None:
            for batch in _batches([RunTag(key, value) for key, value in plain.items()], _PER_CALL):
                client.log_batch(run_id, tags=batch)

        self._sender.upload(Upload(f"tags {', '.join(plain)}", staged, send))

    def text(self, content: str, path: str) -> None:
        """Queue a text. See `Tracker.text`.

        Raises:
            UserError: `path` leads out of the run's folder.
        """
        folder, _, name = inner_path(path).rpartition("/")
        staged = self._staging.text(content, name)
        if staged is not None:
            self._queue_file(f"text {path}", staged, folder, replace=True)

    def artifact(self, path: Path, folder: str) -> None:
        """Queue a copy of `path`, to be kept as `folder/<its name>`. See `Tracker.artifact`.

        Raises:
            UserError: `folder` leads out of the run's folder.
        """
        folder = inner_path(folder) if folder else ""
        staged = self._staging.copy(path)
        if staged is not None:
            self._queue_file(f"artifact {path.name}", staged, folder)

    def _queue_file(self, what: str, staged: Path, folder: str, *, replace: bool = False) -> None:
        client, run_id, staging = self._client, self._run_id, self._staging

        def send() -> None:
            client.log_artifact(run_id, str(staged), artifact_path=folder or None)
            staging.discard([upload])

        upload = Upload(what, staged, send)
        staging.discard(self._sender.upload(upload, replace=replace))

    def model(self, checkpoint: Path, name: str) -> None:
        """Queue a copy of `checkpoint`, to be kept as the pyfunc `name`. See `Tracker.model`."""
        staged = self._staging.copy(checkpoint)
        if staged is None:
            return
        client, run_id, experiment_id = self._client, self._run_id, self._experiment_id

        def send() -> None:
            log_checkpoint(client, experiment_id, run_id, staged, name)

        self._sender.upload(Upload(f"model {name}", staged, send))

    def address(self) -> str | None:
        """The run's page on a server; for a store without one, the page and the command that serves it."""
        page = f"#/experiments/{self._experiment_id}/runs/{self._run_id}"
        if is_server(self._uri):
            return f"{mask_uri(self._uri).rstrip('/')}/{page}"
        option = "" if self._uri == DEFAULT_URI else f" --uri {mask_uri(self._uri)}"
        return f"http://127.0.0.1:5000/{page}  (served by: distmeta ui{option})"

    def close(self, *, failed: bool = False) -> None:
        """Write what is queued, for a bounded time, and end the run. What is left goes to the folder `unsent`."""
        timeout_s = min(self._close_timeout_s, _FAILED_CLOSE_S) if failed else self._close_timeout_s
        if self._sender.away and timeout_s > FIRST_CALL_PATIENCE_S:
            _LOG.warning("tracking: waiting for the store, up to %.0f s, to write the rest of the run", timeout_s)
        try:
            keep(self._sender.close(timeout_s), self._unsent, self._run_id)
        except KeyboardInterrupt:
            keep(self._sender.close(0.0), self._unsent, self._run_id)
            raise
        finally:
            self._staging.remove()
        status = "FAILED" if failed else "FINISHED"
        try:
            wait_out(lambda: self._client.set_terminated(self._run_id, status), min(timeout_s, _END_PATIENCE_S))
        except store_errors() as error:
            _LOG.warning("tracking: the run's end could not be recorded: %s", mask_uri(str(error))[:500])

    def _open_run(self, name: str, resume: str | None) -> tuple[str, dict[str, int]]:
        """The run's id, and the last step it has recorded of each metric."""
        tags = {"mlflow.user": environment.user(), "mlflow.source.name": Path(sys.argv[0]).name}
        if resume:
            run = self._known_run(resume)
            if run is not None:
                self._client.update_run(resume, status="RUNNING")
                return resume, last_steps(run)
            _LOG.warning("tracking: the store %s has no run %s: a new one is opened", mask_uri(self._uri), resume)
            tags["distmeta.continues"] = resume
        run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
        return str(run.info.run_id), {}

    def _known_run(self, run_id: str) -> Run | None:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return None if run.info.lifecycle_stage == "deleted" else run

    def _describe(self, config: Mapping[str, object]) -> None:
        """Record the configuration and the environment. A parameter that the run has already keeps its first value."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self._run_id).data.params
        params = flatten(config)
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for batch in _batches(new, _PER_CALL):
            self._client.log_batch(self._run_id, params=batch)
        git = environment.git_state()
        tags = {f"version.{key}": value for key, value in environment.versions().items()}
        tags |= {f"machine.{key}": value for key, value in environment.machine().items()}
        tags |= {f"git.{key}": value for key, value in git.items()}
        if git:
            tags |= {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"]}
        changed = [f"{key}: {known[key]} -> {value}" for key, value in params.items() if known.get(key, value) != value]
        if changed:
            tags["distmeta.changed_on_resume"] = "; ".join(changed)[:MAX_TAG_LENGTH]
        self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        plain = masked(config)
        self._client.log_text(self._run_id, json.dumps(plain, indent=2) + "\n", "config.json")
        self._client.log_text(self._run_id, yaml.safe_dump(plain, sort_keys=False), "config.yaml")

    def _write_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        if time.monotonic() < self._late_until_s:
            taken = last_steps(self._client.get_run(self._run_id))
            points = [point for point in points if point in self._requeued or point.step > taken.get(point.key, -1)]
        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in points]
        self._client.log_batch(self._run_id, metrics=metrics)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
