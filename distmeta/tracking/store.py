"""Open an MLflow store, classify its errors and retry. MLflow is imported lazily."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from distmeta.core.deadline import answer_within
from distmeta.core.errors import UserError
from distmeta.tracking.uris import artifact_folder, is_server, mask_uri, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# Defaults for MLflow's settings. The sender retries, not MLflow's client, which would block for minutes on one failed
# call; and no telemetry is sent.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
FIRST_CALL_TIMEOUT_S = 3.0
"""How long to retry the first call, because the server may still be starting, in seconds."""
_MAX_WAIT_S = 10.0
_CREATION_TIMEOUT_S = 60.0
_DATABASE_TIMEOUT_S = 10.0
_TRANSIENT_ERRORS = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
_TRANSIENT_STATUS_CODES = (408, 425, 429)


def open_store(uri: str) -> MlflowClient:
    """Create a client of a store; a SQLite file and its parent folder are created if missing.

    Raises:
        Exception: One of `store_errors`: the database cannot be opened.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    database = sqlite_file(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    if not is_server(uri):
        check_database(uri)

    # This logger reports every new table, and full stack traces of failed writes, which the sender logs in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with _creation_lock(database):
        return MlflowClient(uri)


def check_database(uri: str) -> None:
    """Open the database once: MLflow would retry for minutes where it cannot be opened at all.

    Raises:
        Exception: One of `store_errors`: it cannot be opened, does not answer in time, or its driver is not installed.
    """
    import sqlalchemy

    def connect() -> None:
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
        try:
            with engine.connect():
                pass
        finally:
            engine.dispose()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sqlalchemy.exc.SAWarning)  # of options that have no effect
            answer_within(_DATABASE_TIMEOUT_S, connect)  # some drivers wait for a host without a limit
    except ValueError as error:  # a port that is no number; the message may quote a password
        raise sqlalchemy.exc.ArgumentError("it cannot be parsed as the URL of a database") from error
    except (LookupError, RuntimeError, TypeError) as error:  # a driver that cannot use the URI
        raise sqlalchemy.exc.ArgumentError(f"{type(error).__name__}: {error}") from error


def unusable(uri: str, error: Exception) -> str:
    """What is wrong with a store that one of `store_errors` has been raised for; secrets are masked."""
    reason = str(getattr(error, "orig", None) or error)  # without the link that sqlalchemy adds to a driver's message
    if isinstance(error, ImportError):
        reason = f"its Python driver is not installed: {reason}"
    return f"the store {mask_uri(uri)} cannot be used: {mask_uri(reason)[:300]}"


@contextlib.contextmanager
def _creation_lock(database: Path | None) -> Iterator[None]:
    """Let one process at a time create the tables of a new SQLite file: two at once fail."""
    if database is None or (database.exists() and database.stat().st_size):
        yield
        return
    name = hashlib.sha256(str(database).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"distmeta-{os.getuid()}-{name}.lock"
    descriptor = _lock(path, time.monotonic() + _CREATION_TIMEOUT_S)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # while it is held, and also when the process is being stopped
            os.close(descriptor)


def _lock(path: Path, deadline_s: float) -> int | None:
    """Create a file and lock it. Returns its descriptor; None if another process holds it until the deadline."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            os.close(descriptor)  # its owner has removed it since it was opened: the next one waits for another file
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() > deadline_s:
                return None
            time.sleep(0.05)


def find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment `name`, which is created if it does not exist.

    Artifacts of a SQLite store are stored beside its file, independent of the working folder.

    Raises:
        UserError: The experiment has been deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = sqlite_file(uri)
        location = artifact_folder(database).as_uri() if database else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another run may have created it concurrently
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment '{name}' has been deleted in the store",
            where="tracking.experiment",
            allowed=f"another name, or `mlflow experiments restore --experiment-id {experiment.experiment_id}`",
        )
    return str(experiment.experiment_id)


def retry_outages(call: Callable[[], _Result], timeout_s: float) -> _Result:
    """Call, and retry with backoff while the store is unavailable.

    Args:
        call: An idempotent call of the store.
        timeout_s: How long to retry, in seconds. A wait longer than FIRST_CALL_TIMEOUT_S is logged.

    Returns:
        The result of `call`.

    Raises:
        Exception: The error of `call`, if it is no outage or the timeout has passed.
    """
    deadline_s, wait_s = time.monotonic() + timeout_s, 1.0
    silent = timeout_s <= FIRST_CALL_TIMEOUT_S
    while True:
        try:
            return call()
        except store_errors() as error:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0 or not is_outage(error):
                raise
            if not silent:
                reason = mask_uri(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
                _LOG.warning("tracking: the store is unavailable; waiting up to %.0f s for it: %s", left_s, reason)
            silent = True
        time.sleep(min(left_s, wait_s))
        wait_s = min(2.0 * wait_s, _MAX_WAIT_S)


def last_steps(run: Run) -> dict[str, int]:
    """Last recorded step of each metric, without fetching the history of the metrics."""
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}


def store_errors() -> tuple[type[Exception], ...]:
    """Errors of a store that cannot be used: from MLflow, the network, the database or its missing driver."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError)


def is_outage(error: Exception) -> bool:
    """Whether an error is transient: no connection, a timeout, a busy or failing server."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        # An INTERNAL_ERROR counts only if the server sent it, because it is also MLflow's default code. For a gateway's
        # 502, MLflow has nothing but the message.
        server_error = isinstance(error, RestException) and error.error_code == "INTERNAL_ERROR"
        if server_error or error.error_code in _TRANSIENT_ERRORS or "failed with error code 50" in str(error):
            return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HTTPError) and cause.response is not None:
            return cause.response.status_code >= 500 or cause.response.status_code in _TRANSIENT_STATUS_CODES
        if isinstance(cause, (ConnectionError, TimeoutError, RequestException, OperationalError)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
