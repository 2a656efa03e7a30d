"""Open an MLflow store, and classify its errors. MLflow is imported lazily."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distmeta.core.deadline import answer_within
from distmeta.core.errors import UserError
from distmeta.tracking.empty_store import copy_empty_store, keep_empty_store
from distmeta.tracking.uris import artifact_folder, is_server, mask_uri, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


# Defaults for MLflow's settings. The driver retries, not MLflow's client, which would block for minutes on one failed
# call; and no telemetry is sent.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Without a kind, MLflow's page opens an experiment on the traces of language models instead of its runs."""
_CREATION_TIMEOUT_S = 60.0
_DATABASE_TIMEOUT_S = 10.0
_TRANSIENT_ERRORS = ("TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")
_TRANSIENT_STATUS_CODES = (408, 425, 429)


def open_store(uri: str, home: Path | None = None) -> MlflowClient:
    """Create a client of a store; a SQLite file and its parent folder are created if missing.

    Args:
        uri: The store.
        home: Folder with an empty store to copy (`distmeta.tracking.empty_store`); None: MLflow makes the tables.

    Raises:
        Exception: One of `store_errors`: the database cannot be opened.
    """
    _set_defaults()
    database = sqlite_file(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    if not is_server(uri):
        check_database(uri)

    # This logger reports every new table, and full stack traces of failed writes, which the sender logs in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with _creation_lock(database) as is_new:
        if database is None or home is None or not is_new:
            return MlflowClient(uri)
        copied = copy_empty_store(home, database)
        client = MlflowClient(uri)
        if not copied:
            keep_empty_store(home, database)
        return client


def import_libraries(*, server: bool) -> None:
    """Import what `open_store` needs, for a server or for a database."""
    _set_defaults()
    for name in ("mlflow",) if server else ("mlflow", "sqlalchemy", "mlflow.store.tracking.sqlalchemy_store"):
        with contextlib.suppress(Exception):  # `open_store` raises it again
            importlib.import_module(name)


def _set_defaults() -> None:
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)


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


def reason_of(error: Exception) -> str:
    """What is wrong with a store, or a request to it, that an error has been raised for."""
    reason = str(getattr(error, "orig", None) or error)  # without the link that sqlalchemy adds to a driver's message
    return f"its Python driver is not installed: {reason}" if isinstance(error, ImportError) else reason


def unusable(uri: str, error: Exception) -> str:
    """One line about a store that one of `store_errors` has been raised for; secrets are masked."""
    return f"the store {mask_uri(uri)} cannot be used: {mask_uri(reason_of(error))[:300]}"


@contextlib.contextmanager
def _creation_lock(database: Path | None) -> Iterator[bool]:
    """Let one process at a time create the tables of a new SQLite file: two at once fail. Yields whether it is new."""
    if database is None or (database.exists() and database.stat().st_size):
        yield False
        return
    name = hashlib.sha256(str(database).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"distmeta-{os.getuid()}-{name}.lock"
    descriptor = _lock(path, time.monotonic() + _CREATION_TIMEOUT_S)
    try:
        yield not (database.exists() and database.stat().st_size)
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
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
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
