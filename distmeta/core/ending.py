"""How a process of ours ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """End this process: wait for its threads, run what is registered for its end, write what is printed.

    Python itself would go on to take its objects and the C++ libraries apart, whose threads (those of Ray) are still
    there: now and then that ends in a crash after everything has been done, with another exit code.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as Python does first of all
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever reads it has ended, or it is closed
            stream.flush()
    os._exit(code)
