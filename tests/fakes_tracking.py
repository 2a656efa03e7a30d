"""A gate in front of a real server: it lets requests pass, keeps them out, swallows answers, or holds requests back."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Mode = Literal["open", "shut", "swallow", "hold"]
TIMEOUT_S = 60.0


class Gate:
    """A proxy on a port of its own, as a context manager. What becomes of a request is settled when it arrives.

    Attributes:
        mode: `open` passes requests on. `shut` closes connections without a word. `swallow` passes requests on and
            closes the connection instead of answering. `hold` passes a request on when it is `released`, and does not
            answer either. Requests that only read are let through in the last two.
        address: Where it listens.
        written: Requests that write which have been passed on.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target).netloc
        self.mode: Mode = "open"
        self.written, self._held = 0, 0
        self._changed = threading.Condition()
        self._released = threading.Event()
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    gate._pass(self)
                self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mode = "shut"
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(TIMEOUT_S)

    def release(self) -> None:
        """Pass on what is held, and wait until the server has taken it."""
        self._released.set()
        with self._changed:
            assert self._changed.wait_for(lambda: self._held == 0, TIMEOUT_S)
        self._released.clear()

    def wait_until_held(self) -> None:
        """Wait until a request is held."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._held > 0, TIMEOUT_S)

    def wait_until_written(self, count: int) -> None:
        """Wait until so many requests that write have been passed on."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.written >= count, TIMEOUT_S)

    def _pass(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        mode, writes = self.mode, request.path.endswith("runs/log-batch")
        if mode == "shut":
            return
        if mode == "hold" and writes:
            self._count(held=1)
            self._released.wait(TIMEOUT_S)
        connection = http.client.HTTPConnection(self._target, timeout=TIMEOUT_S)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
            if writes:
                self._count(written=1, held=-1 if mode == "hold" else 0)
        if mode in ("swallow", "hold") and writes:
            return
        try:
            request.send_response(answer.status)
            request.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            request.send_header("Content-Length", str(len(content)))
            request.send_header("Connection", "close")
            request.end_headers()
            request.wfile.write(content)
        except OSError:
            return  # whoever asked has gone

    def _count(self, *, written: int = 0, held: int = 0) -> None:
        with self._changed:
            self.written += written
            self._held += held
            self._changed.notify_all()
