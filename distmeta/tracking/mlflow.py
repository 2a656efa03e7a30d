"""Runs recorded in MLflow: a SQLite file by default, any MLflow server or database otherwise.

Everything is on record before step 0: the resolved configuration (as parameters, and whole as `config.yaml` and
`config.json`), the git state, versions and the machine. Afterwards training only ever puts things in a queue
(`distmeta.tracking.sender`): a store that is slow or away costs no time and ends no run. What it has not taken when the
run ends is left in a folder whose name is told.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distmeta.errors import UserError
from distmeta.tracking import environment
from distmeta.tracking.base import Tracker
from distmeta.tracking.flatten import flatten, masked
from distmeta.tracking.logged_model import log_checkpoint
from distmeta.tracking.sender import Point, Sender, Unsent, Upload
from distmeta.tracking.store import find_experiment, is_outage, open_store, store_errors
from distmeta.tracking.uris import DEFAULT_URI, is_server, mask_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_PARAMS_PER_CALL = 100


class MlflowTracker(Tracker):
    """One MLflow run.

    Args:
        uri: Tracking URI; None takes MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db`.
        experiment: Name of the experiment; made if there is none.
        unsent: Folder for what the store has not taken when the run ends.
        interval_s: Time between two writes, in seconds.
        close_timeout_s: Longest time that `close` waits for the store, in seconds.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        *,
        unsent: Path = Path("mlflow-unsent"),
        interval_s: float = 1.0,
        close_timeout_s: float = 30.0,
    ) -> None:
        self._uri, self._experiment = tracking_uri(uri), experiment
        self._unsent, self._interval_s, self._close_timeout_s = unsent, interval_s, close_timeout_s

    def start(self, name: str, config: Mapping[str, object], resume: str | None) -> str:
        """Open a run, or go on with `resume`, and record what it depends on. See `Tracker.start`.

        A store that does not know the run `resume` gets a new one, with a warning and the tag `distmeta.continues`.

        Raises:
            UserError: The store cannot be opened.
        """
        try:
            self._client = open_store(self._uri)
            self._experiment_id = find_experiment(self._client, self._uri, self._experiment)
            self._run_id, self._recorded = self._open_run(name, resume)
            self._describe(config)
        except store_errors() as error:
            raise UserError(
                f"the store {mask_uri(self._uri)} cannot be used: {mask_uri(str(error))[:300]}",
                where="tracking.uri",
                allowed="a running MLflow server (http://HOST:PORT), a database (sqlite:///FILE), or kind none",
            ) from error
        self._staging = Path(tempfile.mkdtemp(prefix="distmeta-tracking-"))
        self._num_staged = 0
        self._sender = Sender(self._write_points, is_outage, interval_s=self._interval_s)
        return self._run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue values. See `Tracker.log`."""
        now_ms = int(time.time() * 1000)
        new = {key: float(value) for key, value in metrics.items() if step > self._recorded.get(key, -1)}
        self._recorded.update(dict.fromkeys(new, step))
        self._sender.put(Point(key, value, now_ms, step) for key, value in new.items())

    def artifact(self, path: Path, folder: str) -> None:
        """Queue a copy of `path`, to be kept as `folder/<its name>`. See `Tracker.artifact`."""
        staged = self._stage(path)
        if staged is None:
            return
        client, run_id = self._client, self._run_id

        def send() -> None:
            client.log_artifact(run_id, str(staged), artifact_path=folder or None)

        self._sender.upload(Upload(f"artifact {path.name}", staged, send))

    def model(self, checkpoint: Path, name: str) -> None:
        """Queue a copy of `checkpoint`, to be kept as the pyfunc `name`. See `Tracker.model`."""
        staged = self._stage(checkpoint)
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
        unsent = self._sender.close(self._close_timeout_s)
        self._keep(unsent)
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")
        except store_errors() as error:
            _LOG.warning("tracking: the run's end could not be recorded: %s", mask_uri(str(error))[:500])

    def _open_run(self, name: str, resume: str | None) -> tuple[str, dict[str, int]]:
        """The run's id, and the last step it has recorded of each metric."""
        tags = {"mlflow.user": environment.user(), "mlflow.source.name": Path(sys.argv[0]).name}
        if resume:
            run = self._known_run(resume)
            if run is not None:
                self._client.update_run(resume, status="RUNNING")
                histories = {key: self._client.get_metric_history(resume, key) for key in run.data.metrics}
                return resume, {key: max(point.step for point in points) for key, points in histories.items()}
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
        for batch in _batches(new, _PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=batch)
        git = environment.git_state()
        tags = {f"version.{key}": value for key, value in environment.versions().items()}
        tags |= {f"machine.{key}": value for key, value in environment.machine().items()}
        tags |= {f"git.{key}": value for key, value in git.items()}
        if git:
            tags |= {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"]}
        changed = [f"{key}: {known[key]} -> {value}" for key, value in params.items() if known.get(key, value) != value]
        if changed:
            tags["distmeta.changed_on_resume"] = "; ".join(changed)[:5000]
        self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        plain = masked(config)
        self._client.log_text(self._run_id, json.dumps(plain, indent=2) + "\n", "config.json")
        self._client.log_text(self._run_id, yaml.safe_dump(plain, sort_keys=False), "config.yaml")

    def _write_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in points]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _stage(self, path: Path) -> Path | None:
        """Copy what is to be sent: the original may be gone by then (checkpoints rotate)."""
        self._num_staged += 1
        staged = self._staging / str(self._num_staged) / path.resolve().name
        try:
            staged.parent.mkdir()
            if path.is_dir():
                shutil.copytree(path, staged)
            else:
                shutil.copyfile(path, staged)
        except OSError as error:
            _LOG.warning("tracking: %s cannot be recorded: %s", path, error)
            return None
        return staged

    def _keep(self, unsent: Unsent) -> None:
        if not unsent.points and not unsent.uploads:
            return
        folder = self._unsent / self._run_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                for point in unsent.points:
                    line = {"run_id": self._run_id, "key": point.key, "value": point.value}
                    file.write(json.dumps({**line, "step": point.step, "time_ms": point.time_ms}) + "\n")
            for index, upload in enumerate(unsent.uploads):
                shutil.move(upload.staged, folder / f"{index}-{upload.staged.name}")
        except OSError as error:
            _LOG.warning("tracking: what the store has not taken could not be kept in %s: %s", folder, error)
            return
        counts = f"{len(unsent.points)} metric values and {len(unsent.uploads)} artifacts"
        _LOG.warning("tracking: the store has not taken %s; they are in %s", counts, folder.absolute())


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
