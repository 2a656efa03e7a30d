"""Opening an MLflow store, and what its errors mean. MLflow is imported here when a store is opened, not before."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from distmeta.core.errors import UserError
from distmeta.tracking.uris import artifact_folder, mask_uri, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

# MLflow's own settings, unless the user has made them. Its client would sit on one failed call for minutes; waiting is
# the sender's work. And a run reports to its store and to no one else.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
FIRST_CALL_PATIENCE_S = 3.0
"""How long a server that is just starting is waited for, in seconds."""
_MAX_WAIT_S = 10.0
_PASSING = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")

_PASSING_CODES = (408, 425, 429)


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

    found = client.get_experiment_by_name(name)
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


def wait_out(call: Callable[[], _Answer], patience_s: float) -> _Answer:
    """Call until the store answers.

    Args:
        call: A call of the store that may be repeated.
        patience_s: How long to try again while the store is away, in seconds. A wait of more than a few is told.

    Returns:
        What `call` returns.

    Raises:
        Exception: What `call` raises, if it is no outage, or still after `patience_s`.
    """
    give_up_s, wait_s = time.monotonic() + patience_s, 1.0
    told = patience_s <= FIRST_CALL_PATIENCE_S
    while True:
        try:
            return call()
        except store_errors() as error:
            left_s = give_up_s - time.monotonic()
            if left_s <= 0.0 or not is_outage(error):
                raise
            if not told:
                reason = mask_uri(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
                _LOG.warning("tracking: the store does not answer; waiting for it, up to %.0f s: %s", left_s, reason)
            told = True
        time.sleep(min(left_s, wait_s))
        wait_s = min(2.0 * wait_s, _MAX_WAIT_S)


def last_steps(run: Run) -> dict[str, int]:
    """The last step that the store has of each metric: one answer for all of them, however long they are."""
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}


def store_errors() -> tuple[type[Exception], ...]:
    """What a store that cannot be used raises: MLflow itself, the network, the database or its missing driver."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError)


def is_outage(error: Exception) -> bool:
    """Whether the store may take the same call later: no connection, a time-out, a busy or failing server."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        # Without the server's own account (a gateway's 502), MLflow has only the text; its default code says nothing.
        told = isinstance(error, RestException) and error.error_code == "INTERNAL_ERROR"
        if told or error.error_code in _PASSING or "failed with error code 50" in str(error):
            return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HTTPError) and cause.response is not None:
            return cause.response.status_code >= 500 or cause.response.status_code in _PASSING_CODES
        if isinstance(cause, (ConnectionError, TimeoutError, RequestException, OperationalError)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
