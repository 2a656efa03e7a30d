"""The process that talks to MLflow for the driver.

Importing MLflow and opening a store take seconds, which this process spends on another core while the driver loads
torch, starts workers and trains; afterwards its requests do not compete with the training thread for the interpreter.

    driver                                     python -m distmeta.tracking.answer
    call("send", ...)  -- {"id", "method"} -->  a thread for each request: `distmeta.tracking.client`
                       <-- {"id", "value"} ---  or {"id", "error"}

One JSON object a line, over pipes. The process ends with the driver, however that ends: its input is then closed. If it
is killed itself, or stuck and so ended by the driver, requests in flight fail as outages, and the next one starts
another process.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO

from distmeta.core.errors import DistmetaError, UserError
from distmeta.tracking.failure import StoreFailure

_ANSWER_TIMEOUT_S = 180.0
"""Stores have limits of their own, which are shorter: a process that takes longer is stuck."""
_END_TIMEOUT_S = 5.0
_ROOT = Path(__file__).parents[2]
_PROGRAM = "distmeta.tracking.answer"
_SETTINGS = ("MLFLOW_", "DATABRICKS_", "AWS_", "AZURE_", "GOOGLE_")


class StoreProcess:
    """A child process that answers requests. Its methods may be called from several threads.

    Args:
        server: Whether the stores are MLflow servers, which take fewer libraries than databases.
    """

    def __init__(self, *, server: bool) -> None:
        self._settings = _settings()
        python_path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, "server" if server else "database"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": python_path},
            start_new_session=True,  # Ctrl-C is for the driver, which still has values to send
        )
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="distmeta-tracking-replies", daemon=True)
        self._reader.start()

    @property
    def usable(self) -> bool:
        """Whether it runs, with the settings of stores that this process has now."""
        return not self._ended and self._settings == _settings()

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of `StoreClient` and wait for its result.

        Raises:
            StoreFailure: The store failed, or the process ended or is stuck.
            UserError: Something that the user has set is wrong.
        """
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._ids)
            self._waiting[number] = future
            try:
                if self._ended:
                    raise BrokenPipeError
                line = json.dumps({"id": number, "method": method, "arguments": arguments}).encode() + b"\n"
                _pipe(self._process.stdin).write(line)
                _pipe(self._process.stdin).flush()
            except (OSError, ValueError):
                self._waiting.pop(number, None)
                raise _has_ended() from None
        try:
            return future.result(_ANSWER_TIMEOUT_S)
        except TimeoutError:
            self._abort()
            what = f"the tracking process has not answered for {_ANSWER_TIMEOUT_S:g} s"
            raise StoreFailure("TimeoutError", what, outage=True) from None

    def _abort(self) -> None:
        """End a process that is stuck; all requests in flight fail."""
        self._process.send_signal(signal.SIGABRT)  # prints where it is stuck, if PYTHONFAULTHANDLER is set
        self._wait()

    def _wait(self) -> None:
        """Wait until the process has ended; it is killed if that takes long."""
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def close(self) -> None:
        """End the process; requests in flight fail."""
        with self._lock, contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        self._wait()

    def _read(self) -> None:
        with _pipe(self._process.stdout) as replies:
            for line in replies:
                reply = json.loads(line)
                with self._lock:
                    future = self._waiting.pop(reply["id"])
                if "error" in reply:
                    future.set_exception(_to_exception(reply["error"]))
                else:
                    future.set_result(reply["value"])
        with self._lock:
            self._ended = True
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(_has_ended())


_shared: StoreProcess | None = None
_sharing = threading.Lock()


def store_process(*, server: bool) -> StoreProcess:
    """The store process of this one; started if there is none that can be used. It answers all trackers."""
    global _shared
    with _sharing:
        if _shared is None or not _shared.usable:
            close_shared()
            _shared = StoreProcess(server=server)
        return _shared


@atexit.register
def close_shared() -> None:
    """End the shared process; the next request starts another one."""
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None


def _settings() -> dict[str, str]:
    """Environment variables that MLflow and stores of artifacts read."""
    return {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}


def _pipe(stream: Any) -> BinaryIO:
    return stream  # type: ignore[no-any-return]  # never None: both are pipes


def _has_ended() -> StoreFailure:
    return StoreFailure("OSError", "the tracking process has ended", outage=True)


def _to_exception(error: dict[str, Any]) -> DistmetaError:
    if "where" in error:
        return UserError(error["what"], where=error["where"], allowed=error["allowed"])
    return StoreFailure(error["kind"], error["what"], outage=error["outage"])
