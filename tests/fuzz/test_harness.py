"""The harness sees what it looks for."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from distmeta.cli import checkpoint
from distmeta.core.errors import UserError

from . import harness
from .conftest import Places


@pytest.fixture(scope="session")
def fuzz_journal() -> None:
    """Here a problem is an error, in `make fuzz` too."""


def test_seeds_count_in_the_long_profile() -> None:
    assert settings.get_profile("default").derandomize
    assert not settings.get_profile("long").derandomize


def _fail() -> None:
    raise RuntimeError("unforeseen")


def _write_beside() -> None:
    Path("../neighbour/new").write_text("x")


def _remove_beside() -> None:
    Path("../neighbour/file").unlink()


def _send_a_signal() -> None:
    os.killpg(os.getpgrp(), signal.SIGURG)


def _connect() -> None:
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except OSError:
        raise UserError("no network") from None


def _print_two_lines() -> None:
    print("a library's message", file=sys.stderr)
    raise UserError("wrong")


def _exit() -> None:
    raise OSError("without a file name")


def _take_long() -> None:
    time.sleep(5)


@pytest.mark.parametrize(
    ("deed", "kind"),
    [
        (_fail, "traceback: .*RuntimeError: unforeseen"),
        (lambda: warnings.warn("old", stacklevel=1), "traceback: .*UserWarning: old"),
        (_write_beside, "write: open ../neighbour/new"),
        (_remove_beside, "write: os.remove ../neighbour/file"),
        (_send_a_signal, "signal: os.killpg"),
        (_connect, r"connection: socket\."),
        (_print_two_lines, "output: 2 lines on stderr"),
        (_exit, "exit code: 1 after OSError"),
        (_take_long, "hang: more than 0.2 s"),
    ],
)
def test_every_kind_of_problem_is_seen(
    places: Places, monkeypatch: pytest.MonkeyPatch, deed: Callable[[], None], kind: str
) -> None:
    monkeypatch.setattr(harness, "LIMIT_S", 0.2)
    monkeypatch.setattr(checkpoint, "_load", lambda *_: deed())
    monkeypatch.setattr(harness, "note", lambda _: None)  # hypothesis's own, for use in its tests alone
    with places() as place, pytest.raises(AssertionError, match=f"(?s){kind}"):
        place.run("checkpoint", "digest", "x")
