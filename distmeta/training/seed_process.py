"""The process of one of several runs side by side; see `distmeta.training.side_by_side`.

python -m distmeta.training.seed_process FILE        FILE: number of the open file for its answer

The first line of the input is the run. The input ends with the process that has started this one: this one then stops
itself as by SIGTERM, and so leaves a checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from distmeta.core.collector import paused_process, resume
from distmeta.core.errors import DistmetaError, UserError, WorkerError
from distmeta.core.signals import SignalGuard, Stopped
from distmeta.runtime.policy.decisions import driver_error
from distmeta.training.seed_run import SeedRun


def main(file: int) -> None:
    """Answer with the result of the run, the error that it raised, or the signal that stopped it."""
    os.set_inheritable(file, False)
    source = _take_input()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the way to be stopped, though whoever started this may ignore it
    with SignalGuard() as guard, os.fdopen(file, "w", encoding="utf-8") as answers:
        answer: dict[str, Any]
        try:
            answer = {"result": _train(source)}
        except Stopped as stopped:
            guard.end()
            answer = {"stopped": stopped.signum}
        except Exception as error:  # whatever it is, it is raised where the seeds were asked for
            guard.end()
            answer = {"error": error_to_json(error)}
        guard.end()
        json.dump(answer, answers)


def request_of(run: SeedRun) -> bytes:
    """The line that asks for a run, by the program that this process is, and with its level of messages."""
    level = logging.getLogger("distmeta").getEffectiveLevel()
    return json.dumps({"program": sys.argv[0], "level": level, "run": run.to_json()}).encode() + b"\n"


def error_to_json(error: Exception) -> dict[str, Any]:
    """An error that is being handled, for `error_from_json`."""
    if isinstance(error, UserError):
        return {"user": {"what": error.what, "where": error.where, "allowed": error.allowed}}
    if isinstance(error, OSError) and error.filename:
        return {"file": [error.errno, error.strerror, os.fsdecode(error.filename)]}
    made = driver_error(error, "the run", traceback.format_exc())
    refused = isinstance(made.__cause__, PermissionError)
    return {"worker": isinstance(made, WorkerError), "what": str(made), "refused": refused}


def error_from_json(fields: Mapping[str, Any]) -> Exception:
    """An error of the same kind."""
    if "user" in fields:
        return UserError(**fields["user"])
    if "file" in fields:
        return OSError(*fields["file"])
    error = (WorkerError if fields["worker"] else DistmetaError)(fields["what"])
    error.__cause__ = PermissionError() if fields["refused"] else None  # the command line then ends as for bad input
    return error


def _train(source: int) -> Mapping[str, Any]:
    line = b""
    while not line.endswith(b"\n") and (part := os.read(source, 1 << 16)):
        line += part
    threading.Thread(target=_stop_at_end, args=(source,), name="distmeta-parent", daemon=True).start()
    request = json.loads(line)
    sys.argv = [request["program"]]  # recorded with the run
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("distmeta").setLevel(request["level"])
    run = SeedRun.from_json(request["run"])
    resume()
    return run.train()


def _take_input() -> int:
    """The number of the input, which nothing else then reads: not the run's own code, and no process that it starts."""
    source, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return source


def _stop_at_end(source: int) -> None:
    while os.read(source, 1):
        pass
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what is printed from now on would fail: it was read by the process that is gone
        os.dup2(nothing, stream)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    with paused_process():
        main(int(sys.argv[1]))
