"""`distmeta bench`: the benchmarks of a checkout, which are not in the wheel."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import typer

from distmeta.core.collector import resume as resume_collector
from distmeta.core.errors import UserError

_CHECKOUT = Path(__file__).resolve().parents[2]

SETTINGS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Every argument, `--help` included, is for the command of the checkout."""


def bench(context: typer.Context) -> None:
    """Measure the engine and the server on this machine (from a checkout)."""
    if not (_CHECKOUT / "benchmarks" / "commands").is_dir():
        raise UserError(
            "the benchmarks are not part of the installed package",
            where="distmeta bench",
            allowed="a checkout of the source, installed with `pip install -e .`",
        )
    if str(_CHECKOUT) not in sys.path:
        sys.path.insert(0, str(_CHECKOUT))
    commands = importlib.import_module("benchmarks.commands")
    resume_collector()  # or the graphs of a contender would be garbage that stays
    commands.app(context.args, prog_name="distmeta bench", standalone_mode=False)
