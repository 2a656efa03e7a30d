"""Simulated time, and resources that are shared in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class EventQueue:
    """Actions by time.

    Attributes:
        now: Time of the last action, in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Action]] = []
        self._count = 0

    def at(self, when: float, action: Action) -> None:
        """Run an action at a time. Actions of the same time run in the order of these calls."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    def after(self, delay: float, action: Action) -> None:
        self.at(self.now + delay, action)

    def advance(self) -> None:
        """Go to the next event and run its action."""
        self.now, _, action = heapq.heappop(self._events)
        action()


class SharedResource:
    """Gives each user a rate of min(1, capacity / users): the cores of a machine, or a link (capacity 1)."""

    def __init__(self, events: EventQueue, capacity: float) -> None:
        self._events, self._capacity = events, capacity
        self._served = 0.0  # amount that a user present since the start would have got
        self._since = 0.0
        self._users: list[tuple[float, int, Action]] = []
        self._count = self._version = 0

    def use(self, amount: float, done: Action) -> None:
        """Add a user that needs an amount; runs `done` when it has got it."""
        self._account()
        self._count += 1
        heapq.heappush(self._users, (self._served + amount, self._count, done))
        self._plan()

    def _rate(self) -> float:
        return min(1.0, self._capacity / len(self._users)) if self._users else 0.0

    def _account(self) -> None:
        self._served += (self._events.now - self._since) * self._rate()
        self._since = self._events.now

    def _plan(self) -> None:
        self._version += 1
        if self._users:
            version = self._version
            left = max(0.0, self._users[0][0] - self._served)
            self._events.after(left / self._rate(), lambda: self._finish(version))

    def _finish(self, version: int) -> None:
        if version != self._version:
            return  # planned before another user came
        self._account()
        until, _, done = heapq.heappop(self._users)
        self._served = max(self._served, until)
        self._plan()
        done()
