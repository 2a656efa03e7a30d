"""The `distmeta` command: its sub-commands.

Nothing here imports torch, Ray or MLflow before a command needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from distmeta import __version__
from distmeta.cli.failures import fail, guarded
from distmeta.cli.output import one_line
from distmeta.core.signals import unwrapped

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
    "table": "Train and score a table of jobs.",
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
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (len(arguments) == 1 and arguments[0] in _GROUPS):
        arguments.append("--help")
    return guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        called = [argument for argument in arguments if not argument.startswith("-")][:1]
        with unwrapped():
            code = build_app(called)(arguments, prog_name="distmeta", standalone_mode=False)
    except TyperException as error:
        return fail(_usage(error, arguments), error.exit_code)
    except typer.Abort:
        code = 130
    if code == 130:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _usage(error: TyperException, arguments: list[str]) -> str:
    """What is wrong with the arguments, and which help to read."""
    command = f"distmeta {arguments[0]}" if arguments[0] in _COMMANDS else "distmeta"
    message = one_line(error.format_message()).rstrip(".")
    return f"{message[:1].lower()}{message[1:]}; see `{command} --help`"
