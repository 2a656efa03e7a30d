"""A command that is stopped says so in one line, however often it is told."""

from __future__ import annotations

import subprocess
import sys

STOPPED_TWICE = """
import atexit, os, signal
from distmeta.cli import app, main

def stop(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(stop)
app.build_app = lambda called: stop
main(["data", "list"])
"""


def test_a_second_signal_while_the_process_ends_prints_no_stack() -> None:
    ended = subprocess.run([sys.executable, "-c", STOPPED_TWICE], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 130
    assert ended.stderr == "error: stopped by SIGINT\n"
