"""Tracker for MLflow: a SQLite file by default, otherwise any MLflow server or database.

`start` records the resolved configuration (as parameters, and as `config.yaml` and `config.json`), the git state,
versions and the machine. All later calls only append to a queue (`distmeta.tracking.sender`), so that a slow or
unavailable store neither delays nor ends a run. What could not be sent when the run ends is saved to a local folder.

Each step of a metric is recorded exactly once, even if the driver is killed or the store is unavailable:

- Values are sent in the order in which they were logged, so the store's last step of a metric tells which ones it has.
- Checkpoints include the values in the queue (`pending`). A resumed run sends them again with their original time
  stamps; the store deduplicates equal values.
- A resumed run logs the steps since its checkpoint again and skips those that the store has. The store is asked at the
  start, and for some minutes before each write, because the last request of a killed driver may be processed late.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from distmeta.core.errors import UserError
from distmeta.core.paths import data_home
from distmeta.core.signals import Stopped
from distmeta.tracking import environment
from distmeta.tracking.base import MetricPoint, RunStatus, Tracker
from distmeta.tracking.failure import FIRST_CALL_TIMEOUT_S, StoreFailure, is_outage, retry_outages
from distmeta.tracking.flatten import flatten, masked
from distmeta.tracking.logged_model import keep_own_code
from distmeta.tracking.process import store_process
from distmeta.tracking.sender import Sender, Upload
from distmeta.tracking.staging import Staging, save_unsent
from distmeta.tracking.uris import (
    DEFAULT_URI,
    absolute_uri,
    inner_path,
    is_server,
    mask_uri,
    tracking_uri,
    unsent_folder,
)

_LOG = logging.getLogger(__name__)
_CHARTS = "model-metrics?workflowType=machine_learning"  # without it, MLflow 3 opens a page about traces
_LATE_REQUESTS_S = 180.0  # how long requests of a killed driver may still arrive
_END_TIMEOUT_S = 10.0
_FAILED_CLOSE_TIMEOUT_S = 30.0


class MlflowTracker(Tracker):
    """Records one MLflow run.

    Args:
        uri: Tracking URI; None uses MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db`.
        experiment: Name of the experiment; created if it does not exist.
        unsent: Folder for what could not be sent when the run ends; None uses `mlflow-unsent`.
        interval_s: Interval between writes, in seconds.
        close_timeout_s: Timeout of `close`, in seconds; at most 30 if the run failed or was stopped.
        resume_timeout_s: How long `start` waits for an unavailable store when it resumes a run, in seconds.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        *,
        unsent: Path | None = None,
        interval_s: float = 1.0,
        close_timeout_s: float = 300.0,
        resume_timeout_s: float = 600.0,
    ) -> None:
        self._uri, self._experiment = tracking_uri(uri), experiment
        self._absolute_uri = absolute_uri(self._uri)
        self._unsent, self._interval_s = unsent or unsent_folder(), interval_s
        self._close_timeout_s, self._resume_timeout_s = close_timeout_s, resume_timeout_s

    @override
    def prepare(self) -> None:
        store_process(server=is_server(self._uri))

    @override
    def start(
        self,
        name: str,
        config: Mapping[str, object],
        resume: str | None,
        pending: Sequence[MetricPoint] = (),
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Create a run, or continue the run `resume`, and record the configuration and the environment.

        When resuming, wait for an unavailable store. If the store has no run `resume`, create a new one with the tag
        `distmeta.continues`, and log a warning.

        Raises:
            UserError: The store cannot be used.
        """
        timeout_s = self._resume_timeout_s if resume else 0.0
        try:
            retry_outages(lambda: self._call("open", str(data_home().absolute())), timeout_s)
            self._experiment_id = retry_outages(
                lambda: str(self._call("experiment", self._experiment)), max(timeout_s, FIRST_CALL_TIMEOUT_S)
            )
            further = dict(tags or {})
            self._run_id, self._last_steps = retry_outages(lambda: self._open_run(name, resume, further), timeout_s)
            retry_outages(lambda: self._record_config(config), timeout_s)
        except StoreFailure as failure:
            raise UserError(
                f"the store {mask_uri(self._uri)} cannot be used: {mask_uri(failure.what)[:300]}",
                where="tracking.uri",
                allowed="a running MLflow server (http://HOST:PORT), a database (sqlite:///FILE), or kind none",
            ) from failure
        self._staging = Staging()
        self._resent = frozenset(pending)
        self._late_requests_until_s = time.monotonic() + _LATE_REQUESTS_S if resume else 0.0
        for point in pending:
            self._last_steps[point.key] = max(point.step, self._last_steps.get(point.key, -1))
        self._sender = Sender(self._send_points, is_outage, interval_s=self._interval_s)
        self._sender.put(pending)
        return self._run_id

    @override
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        new = {key: float(value) for key, value in metrics.items() if step > self._last_steps.get(key, -1)}
        self._last_steps.update(dict.fromkeys(new, step))
        self._sender.put(MetricPoint(key, value, now_ms, step) for key, value in new.items())

    @override
    def pending(self) -> list[MetricPoint]:
        """Values in the queue, and values that the store has rejected."""
        return self._sender.pending()

    @override
    def text(self, content: str, path: str) -> None:
        """Queue a text.

        Raises:
            UserError: `path` leaves the run's artifacts.
        """
        folder, _, name = inner_path(path).rpartition("/")
        staged = self._staging.text(content, name)
        if staged is not None:
            self._queue_file(f"text {path}", staged, folder, replace=True)

    @override
    def artifact(self, path: Path, folder: str) -> None:
        """Queue a copy of `path` for upload as `folder/<its name>`.

        Raises:
            UserError: `folder` leaves the run's artifacts.
        """
        folder = inner_path(folder) if folder else ""
        staged = self._staging.copy(path)
        if staged is not None:
            self._queue_file(f"artifact {path.name}", staged, folder)

    def _queue_file(self, name: str, staged: Path, folder: str, *, replace: bool = False) -> None:
        call, run_id, staging = self._call, self._run_id, self._staging

        def send() -> None:
            call("artifact", run_id, str(staged), folder or None)
            staging.discard([upload])

        upload = Upload(name, staged, send)
        staging.discard(self._sender.upload(upload, replace=replace))

    @override
    def model(self, checkpoint: Path, name: str) -> None:
        """Queue a copy of `checkpoint` for upload as the pyfunc model `name`."""
        staged = self._staging.copy(checkpoint)
        if staged is None:
            return
        try:
            keep_own_code(staged)
        except (UserError, OSError) as error:
            _LOG.warning("tracking: the logged model needs own code that cannot be kept: %s", error)
        call, run_id, experiment_id = self._call, self._run_id, self._experiment_id

        def send() -> None:
            call("model", experiment_id, run_id, str(staged), name)

        # Saving a model takes a second, which the driver spends on pictures.
        self._sender.upload(Upload(f"model {name}", staged, send), at_once=True)

    @override
    def address(self) -> str | None:
        page = f"#/experiments/{self._experiment_id}/runs/{self._run_id}/{_CHARTS}"
        if is_server(self._uri):
            return f"{mask_uri(self._uri).rstrip('/')}/{page}"
        option = "" if self._uri == DEFAULT_URI else f" --uri {mask_uri(self._uri)}"
        return f"http://127.0.0.1:5000/{page}  (open it with: distmeta ui{option})"

    @override
    def close(self, status: RunStatus = "FINISHED") -> None:
        """Send what is queued, within a timeout, and end the run. The rest is saved to the folder `unsent`."""
        timeout_s = (
            min(self._close_timeout_s, _FAILED_CLOSE_TIMEOUT_S) if status != "FINISHED" else self._close_timeout_s
        )
        if self._sender.unavailable and timeout_s > FIRST_CALL_TIMEOUT_S:
            _LOG.warning("tracking: waiting up to %.0f s for the store, to write the rest of the run", timeout_s)
        try:
            save_unsent(self._sender.close(timeout_s), self._unsent, self._run_id)
        except (KeyboardInterrupt, Stopped):
            save_unsent(self._sender.close(0.0), self._unsent, self._run_id)
            raise
        finally:
            self._staging.remove()
        try:
            retry_outages(lambda: self._call("end", self._run_id, status), min(timeout_s, _END_TIMEOUT_S))
        except StoreFailure as error:
            _LOG.warning("tracking: the end of the run could not be recorded: %s", mask_uri(str(error))[:500])

    def _open_run(self, name: str, resume: str | None, further: Mapping[str, str]) -> tuple[str, dict[str, int]]:
        """Return the id of the run, and the last recorded step of each metric."""
        tags = {"mlflow.user": environment.user(), "mlflow.source.name": Path(sys.argv[0]).name, **further}
        if resume:
            last: dict[str, int] | None = self._call("go_on", resume)
            if last is not None:
                return resume, last
            _LOG.warning("tracking: the store %s has no run %s; creating a new one", mask_uri(self._uri), resume)
            tags["distmeta.continues"] = resume
        return self._call("create", self._experiment_id, name, tags), {}

    def _record_config(self, config: Mapping[str, object]) -> None:
        """Record the configuration and the environment. Parameters of a resumed run keep their first value."""
        git = environment.git_state()
        tags = {f"version.{key}": value for key, value in environment.versions().items()}
        tags |= {f"machine.{key}": value for key, value in environment.machine().items()}
        tags |= {f"git.{key}": value for key, value in git.items()}
        if git:
            tags |= {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"]}
        safe = masked(config)
        texts = {
            "config.json": json.dumps(safe, indent=2) + "\n",
            "config.yaml": yaml.safe_dump(safe, sort_keys=False),
        }
        self._call("record", self._run_id, flatten(config), tags, texts)

    def _send_points(self, points: Sequence[MetricPoint]) -> None:
        may_be_late = time.monotonic() < self._late_requests_until_s
        resent = [astuple(point) for point in self._resent] if may_be_late else None
        self._call("send", self._run_id, [astuple(point) for point in points], resent)

    def _call(self, method: str, *arguments: object) -> Any:
        """Request something of the store; see `distmeta.tracking.client`."""
        return store_process(server=is_server(self._uri)).call(method, self._absolute_uri, *arguments)
