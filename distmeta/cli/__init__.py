"""The `distmeta` command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Args:
        argv: The arguments after the command's name; None takes those of the process.

    Raises:
        SystemExit: Always, with the exit code (see `distmeta.cli.app`).
    """
    from distmeta.cli.app import run  # here, so that one command's module can be imported without all the others

    raise SystemExit(run(argv))
