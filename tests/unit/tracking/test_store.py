"""Transient errors of a store, and retries."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError, ProgrammingError

from distmeta.core.errors import UserError
from distmeta.core.signals import Stopped
from distmeta.tracking import store
from distmeta.tracking.failure import StoreFailure, retry_outages
from distmeta.tracking.mlflow import MlflowTracker
from distmeta.tracking.store import check_database, is_outage, store_errors, unusable

from ...logged import Logged

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def http_error(code: int) -> Exception:
    response = requests.Response()
    response.status_code = code
    return requests.HTTPError(f"{code}", response=response)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError(), True),
        (requests.ReadTimeout(), True),
        (OperationalError("insert", {}, Exception("database is locked")), True),
        (http_error(503), True),
        (http_error(429), True),
        (http_error(403), False),
        (http_error(404), False),
        (ProgrammingError("insert", {}, Exception("no such table")), False),
        (MlflowException("API request to X failed with error code 502 != 200"), True),
        (MlflowException("no such run", error_code=1001), False),
        (FileNotFoundError("plot.png"), False),
    ],
)
def test_transient_errors_are_outages(error: Exception, transient: bool) -> None:
    assert is_outage(error) is transient


def test_outages_are_retried_until_the_timeout_and_other_errors_are_not(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("distmeta.tracking.failure.time.monotonic", lambda: now[0])
    monkeypatch.setattr("distmeta.tracking.failure.time.sleep", sleep)

    def succeed_after_40_s() -> str:
        if now[0] < 40.0:
            raise StoreFailure("OSError", "http://me:secret@host is unavailable", outage=True)
        return "result"

    assert retry_outages(succeed_after_40_s, 600.0) == "result"
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert len(logged.records) == 1 and "waiting up to 600 s" in logged.text and "secret" not in logged.text
    now[0], waits[:] = 0.0, []
    with pytest.raises(StoreFailure):
        retry_outages(succeed_after_40_s, 3.0)
    assert waits == [1.0, 2.0]
    assert len(logged.records) == 1

    def reject() -> str:
        raise StoreFailure("MlflowException", "no", outage=False)

    with pytest.raises(StoreFailure):
        retry_outages(reject, 600.0)
    assert waits == [1.0, 2.0]


@pytest.mark.timeout(60)  # MLflow itself retries for 105 s
@pytest.mark.parametrize("place", ["folder", pytest.param("file/below.db", marks=pytest.mark.slow)])
def test_a_database_that_cannot_be_opened_fails_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^tracking\.uri: the store sqlite:///.* cannot be used"):
        MlflowTracker(f"sqlite:///{tmp_path / place}", "tests").start("run", {}, None)


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_that_create_one_database_both_succeed(tmp_path: Path) -> None:
    code = "import sys; from distmeta.tracking.store import open_store; open_store(sys.argv[1]).search_experiments()"
    command = [sys.executable, "-W", "ignore", "-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert list(tmp_path.glob("*.lock")) == []


def test_a_stop_while_a_database_is_created_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Stopped), store._creation_lock(tmp_path / "mlflow.db"):
        assert len(list(tmp_path.glob("*.lock"))) == 1
        raise Stopped(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_a_lock_that_is_removed_gets_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    waiting, held, done = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(store.time, "sleep", lambda _: waiting.set())

    def create() -> None:
        with store._creation_lock(tmp_path / "mlflow.db"):
            held.set()
            done.wait(60.0)

    thread = threading.Thread(target=create)
    with store._creation_lock(tmp_path / "mlflow.db"):
        [lock] = tmp_path.glob("*.lock")
        thread.start()
        assert waiting.wait(60.0)
        assert not held.is_set()
    assert held.wait(60.0)
    assert store._lock(lock, deadline_s=0.0) is None
    done.set()
    thread.join()
    assert list(tmp_path.iterdir()) == []


class DriverError(Exception):
    pass


def driver(connect: Callable[..., object]) -> ModuleType:
    """A driver of MySQL with nothing but a way to fail."""
    module = ModuleType("pymysql")
    errors = dict.fromkeys(
        ("Error", "InterfaceError", "InternalError", "OperationalError", "ProgrammingError"), DriverError
    )
    vars(module).update(errors, connect=connect, paramstyle="format", __version__="1.1.0", VERSION_STRING="1.1.0")
    return module


def reason(uri: str) -> str:
    with pytest.raises(store_errors()) as raised:
        check_database(uri)
    return unusable(uri, raised.value)


def test_a_database_that_refuses_is_reported_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise DriverError(2003, "Can't connect to MySQL server on 'db'")

    def need_package(**_: object) -> None:
        raise RuntimeError("'cryptography' package is required")

    uri = "mysql+pymysql://me:hunter2@db/runs"
    shown = "the store mysql+pymysql://me:***@db/runs cannot be used: "
    monkeypatch.setitem(sys.modules, "pymysql", driver(refuse))
    assert reason(uri) == f"{shown}(2003, \"Can't connect to MySQL server on 'db'\")"
    monkeypatch.setitem(sys.modules, "pymysql", driver(need_package))
    assert reason(uri) == f"{shown}RuntimeError: 'cryptography' package is required"
    monkeypatch.setitem(sys.modules, "pymysql", None)
    assert reason(uri).startswith(f"{shown}its Python driver is not installed: ")
    assert reason("postgresql://me:hun@ter2:port@db/runs").endswith("it cannot be parsed as the URL of a database")
    assert reason("sqlite:////proc/none/runs.db?nonsense=1").endswith("unable to open database file")


def test_a_database_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(store, "_DATABASE_TIMEOUT_S", 0.1)
    monkeypatch.setitem(sys.modules, "pymysql", driver(lambda **_: ended.wait(60.0)))
    assert reason("mysql+pymysql://db/runs").endswith("cannot be used: no answer within 0.1 s")
    ended.set()
