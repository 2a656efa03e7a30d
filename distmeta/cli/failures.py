"""What becomes of errors and signals in a command: one line on stderr, and an exit code.

Exit codes: 0 done; 1 something failed on the way (a worker, the network); 2 bad input, told in one line;
130 interrupted; 128 + the signal's number if another one stopped it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator

from pydantic import ValidationError

from distmeta.cli.output import one_line
from distmeta.config.base import to_user_error
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.signals import SignalGuard, Stopped


def guarded(command: Callable[[], object]) -> int:
    """Call a command, tell of its failure in one line, and return its exit code: its own where it returns a number."""
    _escape_unencodable_output()
    with _log_to_stderr(), SignalGuard() as guard:
        code = _run(command, guard)
        if guard.requested:
            guard.end()
        return code


def fail(message: str, code: int) -> int:
    """Say what failed."""
    print(f"error: {message}", file=sys.stderr)
    return code


def _run(command: Callable[[], object], guard: SignalGuard) -> int:
    try:
        code = command()
        sys.stdout.flush()
    except UserError as error:
        return fail(one_line(error), 2)
    except ValidationError as error:
        return fail(one_line(to_user_error(error)), 2)
    except DistmetaError as error:
        is_refused = isinstance(error.__cause__, PermissionError)  # a path that this user may not read or write
        return fail(one_line(error), 2 if is_refused else 1)
    except BrokenPipeError:  # what reads the output has ended, as `head` does
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        what = error.strerror or one_line(error)
        return fail(f"{error.filename}: {what}", 2) if error.filename else fail(what, 1)
    except MemoryError as error:
        return fail(f"not enough memory: {one_line(error)}", 1)
    except Stopped as stopped:
        guard.end()  # a second signal, as of an impatient Ctrl-C, would print a stack
        return fail(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    return code if isinstance(code, int) else 0


def _discard_output() -> None:
    """Keep Python from failing again when it flushes what could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _escape_unencodable_output() -> None:
    """File names may hold bytes that are no text; print these as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show the messages of distmeta's own loggers; other libraries keep to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("distmeta")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
