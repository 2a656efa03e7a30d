"""The `distmeta` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        argv: The arguments after the command's name; None takes those of the process.

    Raises:
        SystemExit: Always, with the exit code (see `distmeta.cli.app`).
    """
    from distmeta.core.collector import paused_process

    with paused_process():
        from distmeta.cli.app import run  # here, so that one command's module can be imported without all the others

        code = run(argv)
    raise SystemExit(code)


def run_job(file: str) -> NoReturn:
    """Train a job file that is run as a script: `python FILE.py [NAME] [options of distmeta train]`.

    The last two lines of a job:

        if __name__ == "__main__":
            run_job(__file__)

    Args:
        file: The job's `__file__`. NAME is one of its functions; without it, `config` is called.

    Raises:
        SystemExit: Always, with the exit code of `distmeta train`.
    """
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        file = f"{file}:{arguments.pop(0)}"
    main(["train", file, *arguments])
