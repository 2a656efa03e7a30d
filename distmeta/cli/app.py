"""The `distmeta` command: its sub-commands, and what becomes of errors.

Exit codes: 0 done; 1 something failed on the way (a worker, the network); 2 bad input, told in one line;
130 interrupted.
Nothing here imports torch, Ray or MLflow before a command needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

from distmeta import __version__
from distmeta.cli.output import one_line
from distmeta.config.base import to_user_error
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.signals import SignalGuard, Stopped, unwrapped

_EXAMPLES = """\b
A first session:
  distmeta jobs init                                   write first_job.py, a job to begin with
  distmeta train first_job.py                          train it: MAML on drawn characters
  distmeta evaluate runs/first_job                     accuracy before and after adaptation
  distmeta adapt runs/first_job --support A --query B  label images or texts in B as those in A
  distmeta ui                                          look at the runs in the browser
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"distmeta {__version__}")
        raise typer.Exit


def _distmeta(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train learners that learn fast, on many tasks at once.

    A job says which tasks to learn from, which network to adapt and by which method. `train` runs it on the workers of
    this machine or of a Ray cluster, records it in MLflow and saves a checkpoint; `evaluate` measures the checkpoint on
    unseen tasks, and `adapt` uses it on a few labelled images or texts of your own.

    `distmeta COMMAND --help` explains a command. Bad input ends with one line on stderr and exit code 2.
    """


_COMMANDS = {
    "train": "Meta-train a learner.",
    "tune": "Choose fields of a job by validation.",
    "submit": "Send a job to a Ray cluster.",
    "jobs": "Write a first job; look at the jobs of a Ray cluster.",
    "evaluate": "Measure a checkpoint on unseen tasks.",
    "analyze": "Find out what meta-learning learnt.",
    "stream": "Learn unseen classes one example at a time.",
    "adapt": "Label your own images or texts.",
    "methods": "List the methods.",
    "data": "Import raw files into stores, and look into them.",
    "checkpoint": "Look at checkpoints.",
    "bench": "Measure the engine on this machine.",
    "ui": "Look at the runs in the browser.",
}
"""Short helps by command. Each is defined in the module of its name: a group as `app`, others as a function of that
name, with their `EXAMPLES` and `SETTINGS`."""
_GROUPS = ("data", "checkpoint", "bench", "jobs")


def build_app(called: Collection[str] = tuple(_COMMANDS)) -> typer.Typer:
    """Build the application.

    Args:
        called: Commands that may be called. The modules of others are not imported: their libraries take long to load.
    """
    app = typer.Typer(
        name="distmeta",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        epilog=_EXAMPLES,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_distmeta)
    for name, short_help in _COMMANDS.items():
        if name not in called:
            app.command(name, short_help=short_help)(_not_called)
            continue
        module = importlib.import_module(f"distmeta.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, short_help=short_help)
        else:
            examples, settings = getattr(module, "EXAMPLES", None), getattr(module, "SETTINGS", None)
            command = app.command(name, short_help=short_help, epilog=examples, context_settings=settings)
            command(getattr(module, name))
    return app


def _not_called() -> None:
    """Stands for a command in the list of commands."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the command's name; None takes those of the process.

    Returns:
        The exit code.
    """
    _escape_unencodable_output()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (len(arguments) == 1 and arguments[0] in _GROUPS):
        arguments.append("--help")
    with _log_to_stderr(), SignalGuard() as guard:
        code = _run(arguments, guard)
        if guard.requested:
            guard.end()
        return code


def _run(arguments: list[str], guard: SignalGuard) -> int:
    try:
        called = [argument for argument in arguments if not argument.startswith("-")][:1]
        with unwrapped():
            code = build_app(called)(arguments, prog_name="distmeta", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        return _fail(one_line(error), 2)
    except ValidationError as error:
        return _fail(one_line(to_user_error(error)), 2)
    except DistmetaError as error:
        is_refused = isinstance(error.__cause__, PermissionError)  # a path that this user may not read or write
        return _fail(one_line(error), 2 if is_refused else 1)
    except TyperException as error:
        return _fail(_usage(error, arguments), error.exit_code)
    except BrokenPipeError:  # what reads the output has ended, as `head` does
        _discard_output()
        return 1
    except OSError as error:
        _discard_output()
        what = error.strerror or one_line(error)
        return _fail(f"{error.filename}: {what}", 2) if error.filename else _fail(what, 1)
    except MemoryError as error:
        return _fail(f"not enough memory: {one_line(error)}", 1)
    except Stopped as stopped:
        guard.end()  # a second signal, as of an impatient Ctrl-C, would print a stack
        return _fail(str(stopped), stopped.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        return _fail("interrupted", 130)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


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


def _usage(error: TyperException, arguments: list[str]) -> str:
    """What is wrong with the arguments, and which help to read."""
    command = f"distmeta {arguments[0]}" if arguments[0] in _COMMANDS else "distmeta"
    message = one_line(error.format_message()).rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see `{command} --help`"


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
