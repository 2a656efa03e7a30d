"""The time of a discrete-event model, and things in it that are shared."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Clock:
    """What happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Action]] = []
        self._count = 0

    def at(self, when: float, action: Action) -> None:
        """Do something at a time; what is for the same time is done in the order in which it was asked for."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    def advance(self) -> None:
        """Go to the next event, and let it happen."""
        self.now, _, action = heapq.heappop(self._events)
        action()


class Shared:
    """Something of which each user gets min(1, capacity / users): a machine's cores, or a link (capacity 1)."""

    def __init__(self, clock: Clock, capacity: float) -> None:
        self._clock, self._capacity = clock, capacity
        self._served = 0.0  # what each user has got since the start
        self._since = 0.0
        self._users: list[tuple[float, int, Action]] = []
        self._count = self._version = 0

    def use(self, amount: float, then: Action) -> None:
        """Serve a new user with `amount`."""
        self._account()
        self._count += 1
        heapq.heappush(self._users, (self._served + amount, self._count, then))
        self._plan()

    def _rate(self) -> float:
        return min(1.0, self._capacity / len(self._users)) if self._users else 0.0

    def _account(self) -> None:
        self._served += (self._clock.now - self._since) * self._rate()
        self._since = self._clock.now

    def _plan(self) -> None:
        self._version += 1
        if self._users:
            version = self._version
            left = max(0.0, self._users[0][0] - self._served)
            self._clock.at(self._clock.now + left / self._rate(), lambda: self._finish(version))

    def _finish(self, version: int) -> None:
        if version != self._version:
            return  # planned before somebody came
        self._account()
        until, _, then = heapq.heappop(self._users)
        self._served = max(self._served, until)
        self._plan()
        then()
