"""What the modules run as `python -m benchmarks...` share: options and jobs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from distmeta.cli.failures import guarded
from distmeta.config import RunConfig
from distmeta.config.load import load_config
from distmeta.core.ending import end_process

CHECKOUT = Path(__file__).resolve().parents[1]
LONG_OUT = Path("runs/bench")
"""Default folder of measurements that are too long to be lost."""


def options(
    description: str | None, *, overrides: bool = False, default_out: Path | None = None
) -> argparse.ArgumentParser:
    """A parser with `--out`.

    Args:
        description: The module's docstring.
        overrides: Add `--set`, for fields of a job's configuration.
        default_out: Folder of the files where `--out` is not given; None writes none.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=default_out, metavar="DIR", help="write JSON and pictures there")
    if overrides:
        parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the job")
    return parser


def settings(args: argparse.Namespace) -> dict[str, object]:
    """The values of the options, for JSON."""
    return {name: value for name, value in vars(args).items() if name != "out"}


def load_job(name: str, *changes: str) -> RunConfig:
    """A job of the checkout (`demo.py`, `omniglot.py:maml`), with changes `field=value`."""
    return load_config(str(CHECKOUT / "jobs" / name), changes)


def run_main(main: Callable[[], object]) -> None:
    """Run a module as a command: bad input and signals end it with one line and the exit codes of `distmeta`."""
    end_process(guarded(main))
