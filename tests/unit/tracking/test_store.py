"""Which errors of a store are worth waiting out, and the wait."""

from __future__ import annotations

import logging

import pytest
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError, ProgrammingError

from distmeta.tracking.store import is_outage, wait_out

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def http_error(code: int) -> Exception:
    response = requests.Response()
    response.status_code = code
    return requests.HTTPError(f"{code}", response=response)


@pytest.mark.parametrize(
    ("error", "passes"),
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
def test_outages_are_told_from_refusals(error: Exception, passes: bool) -> None:
    assert is_outage(error) is passes


def test_a_store_is_asked_again_until_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, waits = [0.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("distmeta.tracking.store.time.monotonic", lambda: now[0])
    monkeypatch.setattr("distmeta.tracking.store.time.sleep", sleep)
    caplog.set_level(logging.WARNING, logger="distmeta")

    def answer_at_40_s() -> str:
        if now[0] < 40.0:
            raise ConnectionError("http://me:secret@host does not answer")
        return "here"

    assert wait_out(answer_at_40_s, 600.0) == "here"
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert len(caplog.records) == 1 and "up to 600 s" in caplog.text and "secret" not in caplog.text
    now[0], waits[:] = 0.0, []
    with pytest.raises(ConnectionError):
        wait_out(answer_at_40_s, 3.0)
    assert waits == [1.0, 2.0]
    assert len(caplog.records) == 1

    def refuse() -> str:
        raise MlflowException("no", error_code=1001)

    with pytest.raises(MlflowException):
        wait_out(refuse, 600.0)
    assert waits == [1.0, 2.0]
