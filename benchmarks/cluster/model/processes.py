"""A simulated process that does one thing at a time, and waits for messages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from benchmarks.cluster.model.events import Action, EventQueue, SharedResource

Message = TypeVar("Message")
Body = Iterator[float | None]
"""Yields the processor seconds that the process needs, or None to wait for a message."""


class Process(Generic[Message]):
    """A process on a machine.

    Args:
        events: Simulated time.
        machine: Index of the machine.
        cores: Its cores.
        next_check_at: When the process wants to go on though no message has come; infinite for never.
    """

    def __init__(
        self, events: EventQueue, machine: int, cores: SharedResource, next_check_at: Callable[[], float]
    ) -> None:
        self.machine = machine
        self._events, self._cores, self._next_check_at = events, cores, next_check_at
        self._inbox: deque[Message] = deque()
        self._resume: Action | None = None

    def run(self, body: Body, then: Action | None = None) -> None:
        """Do what `body` says, then `then`."""

        def go_on() -> None:
            try:
                needed = next(body)
            except StopIteration:
                if then is not None:
                    then()
                return
            if needed is None:
                self._wait(go_on)
            else:
                self._cores.use(needed, go_on)

        go_on()

    def post(self, message: Message) -> None:
        """Let a message arrive."""
        self._inbox.append(message)
        if self._resume is not None:
            self._wake(self._resume)

    def take(self) -> list[Message]:
        """The messages that have come."""
        messages = list(self._inbox)
        self._inbox.clear()
        return messages

    def _wait(self, go_on: Action) -> None:
        if self._inbox:
            go_on()
            return
        self._resume = go_on
        check_at = self._next_check_at()
        if check_at < math.inf:
            self._events.at(check_at, lambda: self._wake(go_on))

    def _wake(self, go_on: Action) -> None:
        """Go on, unless that has happened since."""
        if self._resume is go_on:
            self._resume = None
            go_on()
