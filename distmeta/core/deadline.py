"""A time limit for calls of libraries that wait for hosts without one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def answer_within(timeout_s: float, call: Callable[[], Result]) -> Result:
    """Call in a thread of its own, which is left behind where the call takes too long.

    Args:
        timeout_s: Time limit, in seconds.
        call: Asks another host; it must be harmless if it goes on when nobody waits for it any more.

    Raises:
        TimeoutError: It has not returned in time.
        Exception: What the call raises.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="deadline", daemon=True).start()
    try:
        return future.result(timeout_s)
    except TimeoutError:
        if future.done():
            return future.result()  # raises the call's own error, if it is one
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
