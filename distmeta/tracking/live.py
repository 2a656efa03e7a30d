"""A run as its MLflow store shows it, read while the run goes on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from distmeta.core.errors import UserError, nearest
from distmeta.tracking.store import open_store, store_errors, unusable
from distmeta.tracking.uris import is_server, mask_uri, sqlite_file

_MAX_RUNS = 1000
"""Newest runs among which a name is looked for."""
_MAX_BYTES = 64 << 20


class LiveRun:
    """The newest run of a name, or the run of an id.

    Args:
        uri: The store.
        run: Name or id.

    Raises:
        UserError: The store cannot be used, or has no such run.
    """

    def __init__(self, uri: str, run: str) -> None:
        self._uri = uri
        database = sqlite_file(uri)
        if not is_server(uri) and (database is None or not database.exists()):
            allowed = "the address of an MLflow server, or a database that a run was recorded in"
            raise UserError("there is no such store", where=mask_uri(uri), allowed=allowed)
        try:
            self._client = open_store(uri)
            self.run_id = self._find(run)
        except store_errors() as error:
            raise UserError(unusable(uri, error)) from error

    def _find(self, run: str) -> str:
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        order = ["attributes.start_time DESC"]
        runs = self._client.search_runs(experiments, max_results=_MAX_RUNS, order_by=order)
        for found in runs:
            if run in (found.info.run_id, found.info.run_name):
                return str(found.info.run_id)
        names = list(dict.fromkeys(str(found.info.run_name) for found in runs))
        raise UserError(f"no run '{run}' in {mask_uri(self._uri)}", where="RUN", allowed=nearest(run, names))

    def status(self) -> tuple[str, dict[str, float]]:
        """How the run stands, in MLflow's words (`RUNNING`, `FINISHED`, ...), and its newest metrics."""
        try:
            run = self._client.get_run(self.run_id)
        except store_errors() as error:
            raise UserError(unusable(self._uri, error)) from error
        return str(run.info.status), dict(run.data.metrics)

    def artifact(self, path: str) -> dict[str, Any] | None:
        """A JSON object among the artifacts; None if it is not there (yet), or is just being replaced."""
        with tempfile.TemporaryDirectory(prefix="distmeta-") as folder:
            try:
                file = Path(self._client.download_artifacts(self.run_id, path, folder))
                value = json.loads(file.read_bytes()[:_MAX_BYTES])
            except ValueError:
                return None
            except store_errors():
                return None
        return value if isinstance(value, dict) else None
