"""Opening an MLflow store, and what its errors mean. MLflow is imported here when a store is opened, not before."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from distmeta.errors import UserError
from distmeta.tracking.uris import artifact_folder, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# MLflow's own settings, unless the user has made them. Its client would sit on one failed call for minutes; waiting is
# the sender's work. And a run reports to its store and to no one else.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_FIRST_CALL_TRIES = 3
_PASSING = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")


def open_store(uri: str) -> MlflowClient:
    """Make a client of a store; a SQLite file, with the folders above it, is made if there is none."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    database = sqlite_file(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    # It tells of each new table, and prints whole stack traces of failed writes, which the sender reports in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(uri)


def find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment `name`, which is made if there is none.

    The artifacts of a SQLite store go beside its file, wherever the run is started.

    Raises:
        UserError: The experiment has been deleted.
    """
    from mlflow.exceptions import MlflowException

    found = _first_call(client, name)
    if found is None:
        database = sqlite_file(uri)
        location = artifact_folder(database).as_uri() if database else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may just have made it
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment '{name}' has been deleted in the store",
            where="tracking.experiment",
            allowed=f"another name, or `mlflow experiments restore --experiment-id {found.experiment_id}`",
        )
    return str(found.experiment_id)


def _first_call(client: MlflowClient, name: str) -> Experiment | None:
    """The call that shows whether there is a store. A server that is just starting gets a few seconds."""
    for wait_s in range(1, _FIRST_CALL_TRIES):
        try:
            return client.get_experiment_by_name(name)
        except store_errors() as error:
            if not is_outage(error):
                raise
        time.sleep(wait_s)
    return client.get_experiment_by_name(name)


def store_errors() -> tuple[type[Exception], ...]:
    """What a store that cannot be used raises: MLflow itself, the network, the database or its missing driver."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError)


def is_outage(error: Exception) -> bool:
    """Whether the store may take the same call later: no connection, a time-out, a busy or failing server."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        # Without the server's own account (a gateway's 502), MLflow has only the text; its default code says nothing.
        told = isinstance(error, RestException) and error.error_code == "INTERNAL_ERROR"
        if told or error.error_code in _PASSING or "failed with error code 50" in str(error):
            return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ConnectionError, TimeoutError, RequestException, OperationalError)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
