"""The program of the process that talks to MLflow; see `distmeta.tracking.process`.

python -m distmeta.tracking.answer server|database
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from distmeta.core.collector import paused_process, resume
from distmeta.core.errors import UserError
from distmeta.tracking.client import METHODS, StoreClient
from distmeta.tracking.store import import_libraries, is_outage, reason_of, store_errors


def main(kind: str) -> None:
    """Answer requests until the driver closes the input."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    client, lock, loaded = StoreClient(), threading.Lock(), threading.Event()

    def load() -> None:
        try:
            import_libraries(server=kind == "server")
            resume()
        finally:
            loaded.set()  # a request imports again, and tells what is wrong

    def answer(request: dict[str, Any]) -> None:
        loaded.wait()
        reply = answer_to(client, request)
        with lock:
            replies.write(json.dumps({"id": request["id"], **reply}).encode() + b"\n")
            replies.flush()

    threading.Thread(target=load, daemon=True).start()  # this thread notices meanwhile when the driver ends
    for line in sys.stdin.buffer:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
    os._exit(0)  # the driver is gone, and so must be what it has asked for


def answer_to(client: StoreClient, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request: its `value`, or the `error` that it raised."""
    try:
        if request["method"] not in METHODS:
            raise ValueError(f"unknown method {request['method']}")
        return {"value": getattr(client, request["method"])(*request["arguments"])}
    except UserError as error:
        return {"error": {"what": error.what, "where": error.where, "allowed": error.allowed}}
    except Exception as error:  # whatever it is, it is the driver's to judge
        outage = isinstance(error, store_errors()) and is_outage(error)
        return {"error": {"kind": type(error).__name__, "what": reason_of(error), "outage": outage}}


if __name__ == "__main__":
    with paused_process():
        main(sys.argv[1])
