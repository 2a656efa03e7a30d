"""Run an MLflow server for a local store as a child process.

To prevent DNS rebinding, MLflow accepts only `localhost` and private addresses as host names;
MLFLOW_SERVER_ALLOWED_HOSTS adds others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from types import TracebackType
from typing import IO, Self

from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.leftovers import Note, remove_leftovers
from distmeta.tracking.uris import artifact_folder, is_server, mask_uri, sqlite_file

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2


class MlflowServer:
    """An MLflow server as a context manager, available at `address` within the block, its experiments at `page`.

    Args:
        uri: The store, `sqlite:///FILE` or another database.
        host: Interface to listen on.
        port: Port to listen on.

    Raises:
        UserError: `uri` is a server already, or the port is in use.
    """

    def __init__(self, uri: str, host: str = "127.0.0.1", port: int = 5000) -> None:
        if is_server(uri):
            raise UserError(
                f"{mask_uri(uri)} is a server already: open it in the browser",
                where="--uri",
                allowed="a database, sqlite:///FILE or postgresql://...",
            )
        _check_free(host, port)
        self._uri, self._host, self._port = uri, host, port
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.page = (
            f"{self.address}/#/experiments?workflowType=machine_learning"  # without it: MLflow 3's page of traces
        )

    def __enter__(self) -> Self:
        """Start the server and wait until it is available.

        Raises:
            DistmetaError: The server exited, or did not start in time; the message includes the end of its output.
        """
        remove_leftovers()
        self._output: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command(),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the server's process group
        )
        self._note = Note(group=self._process.pid)
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def wait(self) -> None:
        """Block until the server ends.

        Raises:
            DistmetaError: The server exited; the message includes the end of its output.
        """
        code = self._process.wait()
        raise DistmetaError(f"the MLflow server exited with code {code}: {self._output_tail()}")

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "mlflow", "server", "--host", self._host, "--port", str(self._port)]
        command += ["--workers", "1"]
        database = sqlite_file(self._uri)
        if database is not None:
            command += ["--artifacts-destination", str(artifact_folder(database))]
        return command

    def _environment(self) -> dict[str, str]:
        # Not on the command line, where every user of the machine could read the URI's password.
        return {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": self._uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise DistmetaError(f"the MLflow server could not start: {self._output_tail()}")
            if self._is_available():
                return
            time.sleep(_POLL_S)
        raise DistmetaError(f"the MLflow server did not start within {_START_TIMEOUT_S:.0f} s: {self._output_tail()}")

    def _is_available(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=1.0):
                return True
        except OSError:
            return False

    def _stop(self) -> None:
        """End the process group of the server and its workers: SIGTERM, then SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._note.remove()
        self._output.close()

    def _output_tail(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").split("\n")
        return mask_uri(" / ".join(line.strip() for line in lines if line.strip())[-500:])


def _check_free(host: str, port: int) -> None:
    """Raise a UserError if the port is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (socket.gaierror, UnicodeError, TypeError) as error:
            raise UserError(f"'{host}' is not an address", where="--host", allowed="127.0.0.1, 0.0.0.0 ...") from error
        except OSError as error:
            raise UserError(
                f"port {port} of {host} cannot be used: {error.strerror}", where="--port", allowed="a free port"
            ) from error
