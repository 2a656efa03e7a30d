"""The end of a process."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import atexit, ctypes, os, threading, time
from distmeta.core.ending import end_process

class Crash:
    def __del__(self):
        ctypes.string_at(0)

kept = Crash()
atexit.register(lambda: print("registered"))
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("last line")
end_process(7)
"""


def test_threads_end_exit_functions_run_and_nothing_is_taken_apart() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout.split("\n")) == (7, ["last line", "thread", "registered", ""])


def test_output_that_nobody_reads_changes_no_exit_code() -> None:
    script = "import os; from distmeta.core.ending import end_process; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", f"{script}print('x'); end_process(3)"]
    ended = subprocess.run(command, env=buffered, check=False, timeout=60)
    assert ended.returncode == 3
