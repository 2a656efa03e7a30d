"""What a tracker asks of an MLflow store. Arguments and results are JSON values: requests come over a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmeta.tracking.flatten import MAX_TAG_LENGTH
from distmeta.tracking.logged_model import log_checkpoint
from distmeta.tracking.store import find_experiment, last_steps, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH_SIZE = 100
Point = tuple[str, float, int, int]
"""Key, value, time in milliseconds, step."""


class StoreClient:
    """Clients of the stores that have been asked for. Each method takes the store's URI first; see `METHODS`."""

    def __init__(self) -> None:
        self._clients: dict[str, MlflowClient] = {}

    def open(self, uri: str, home: str | None = None) -> None:
        """Open a store; a SQLite file is created if it does not exist, from an empty one in `home`."""
        self._clients[uri] = open_store(uri, None if home is None else Path(home))

    def experiment(self, uri: str, name: str) -> str:
        """Id of an experiment, which is created if it does not exist."""
        return find_experiment(self._client(uri), uri, name)

    def create(self, uri: str, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Create a run; returns its id."""
        run = self._client(uri).create_run(experiment_id, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def go_on(self, uri: str, run_id: str) -> dict[str, int] | None:
        """Continue a run; returns the last recorded step of each metric, None if there is no such run."""
        from mlflow.exceptions import MlflowException

        client = self._client(uri)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if run.info.lifecycle_stage == "deleted":
            return None
        client.update_run(run_id, status="RUNNING")
        return last_steps(run)

    def record(
        self, uri: str, run_id: str, params: Mapping[str, str], tags: Mapping[str, str], texts: Mapping[str, str]
    ) -> None:
        """Record a configuration and an environment. Parameters that the run has keep their value; a tag tells them."""
        from mlflow.entities import Param, RunTag

        client = self._client(uri)
        recorded = client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in params.items() if key not in recorded]
        for batch in _batches(new, _BATCH_SIZE):
            client.log_batch(run_id, params=batch)
        changes = [(key, recorded[key], value) for key, value in params.items() if recorded.get(key, value) != value]
        if changes:
            told = "; ".join(f"{key}: {before} -> {after}" for key, before, after in changes)
            tags = {**tags, "distmeta.changed_on_resume": told[:MAX_TAG_LENGTH]}
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        for path, text in texts.items():
            client.log_text(run_id, text, path)

    def send(self, uri: str, run_id: str, points: Sequence[Point], resent: Sequence[Point] | None) -> None:
        """Record values.

        Args:
            uri: The store.
            run_id: The run.
            points: The values.
            resent: None to record all of them; otherwise leave out steps that the store has, except for these values.
        """
        from mlflow.entities import Metric

        client = self._client(uri)
        if resent is not None:
            last, again = last_steps(client.get_run(run_id)), {_key(point) for point in resent}
            points = [point for point in points if _key(point) in again or point[3] > last.get(point[0], -1)]
        client.log_batch(run_id, metrics=[Metric(*point) for point in points])

    def artifact(self, uri: str, run_id: str, path: str, folder: str | None) -> None:
        """Upload a file or folder."""
        self._client(uri).log_artifact(run_id, path, artifact_path=folder)

    def model(self, uri: str, experiment_id: str, run_id: str, checkpoint: str, name: str) -> None:
        """Upload a checkpoint as a model."""
        log_checkpoint(self._client(uri), experiment_id, run_id, Path(checkpoint), name)

    def end(self, uri: str, run_id: str, status: str) -> None:
        """End a run."""
        self._client(uri).set_terminated(run_id, status)

    def _client(self, uri: str) -> MlflowClient:
        """The client of a store, opened again if this process has taken the place of another."""
        if uri not in self._clients:
            self.open(uri)
        return self._clients[uri]


METHODS = ("open", "experiment", "create", "go_on", "record", "send", "artifact", "model", "end")
"""Methods that may be requested."""


def _key(point: Point) -> tuple[str, str, int, int]:
    """A point to be compared: NaN is equal to NaN."""
    return point[0], repr(point[1]), point[2], point[3]


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
