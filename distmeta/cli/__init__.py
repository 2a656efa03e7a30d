"""The `distmeta` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from distmeta.core.ending import end_process


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        argv: The arguments after the command's name; None takes those of the process, which then ends.

    Raises:
        SystemExit: With the exit code (see `distmeta.cli.failures`), where the process is not ended.
    """
    from distmeta.core.collector import paused_process

    with paused_process():
        from distmeta.cli.app import run  # here, so that one command's module can be imported without all the others

        code = run(argv)
    if argv is None:
        end_process(code)
    raise SystemExit(code)


def run_job(file: str) -> NoReturn:
    """Train a job file that is run as a script: `python FILE.py [NAME] [options of distmeta train]`.

    The last two lines of a job:

        if __name__ == "__main__":
            run_job(__file__)

    Args:
        file: The job's `__file__`. NAME is one of its functions; without it, `config` is called.

    Raises:
        SystemExit: With the exit code of `distmeta train`, where `file` is not the script that the process runs.
    """
    arguments, is_process = sys.argv[1:], getattr(sys.modules["__main__"], "__file__", None) == file
    if arguments and not arguments[0].startswith("-"):
        file = f"{file}:{arguments.pop(0)}"
    try:
        main(["train", file, *arguments])
    except SystemExit as ended:
        if is_process:
            end_process(int(ended.code or 0))
        raise
