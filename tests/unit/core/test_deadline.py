"""Calls with a time limit."""

from __future__ import annotations

import threading

import pytest

from distmeta.core.deadline import answer_within


def test_what_a_call_returns_or_raises_is_returned_or_raised() -> None:
    def fail() -> None:
        raise LookupError("no such host")

    def give_up() -> None:
        raise TimeoutError("its own limit")

    assert answer_within(60.0, lambda: 3) == 3
    with pytest.raises(LookupError, match="no such host"):
        answer_within(60.0, fail)
    with pytest.raises(TimeoutError, match="its own limit"):
        answer_within(60.0, give_up)


def test_a_call_that_takes_too_long_is_left_behind() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError, match=r"^no answer within 0\.05 s$"):
        answer_within(0.05, lambda: released.wait(60.0))
    released.set()
