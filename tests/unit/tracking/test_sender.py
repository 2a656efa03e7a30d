"""The sender against a fake store that can be slow, away, or hard to please."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from distmeta.tracking.base import Point
from distmeta.tracking.sender import Sender, Upload

PATIENCE_S = 30.0


class FakeStore:
    """Keeps what it is sent. While it is away, every call fails with ConnectionError."""

    def __init__(self) -> None:
        self.calls: list[list[Point]] = []
        self.uploads: list[str] = []
        self.away = threading.Event()
        self.asked, self.changed = threading.Event(), threading.Condition()
        self.refuses: set[str] = set()

    def write(self, points: Sequence[Point]) -> None:
        self._answer(*(point.key for point in points))
        with self.changed:
            self.calls.append(list(points))
            self.changed.notify_all()

    def upload(self, what: str) -> Upload:
        def send() -> None:
            self._answer(what)
            with self.changed:
                self.uploads.append(what)
                self.changed.notify_all()

        return Upload(what, Path(what), send)

    def _answer(self, *names: str) -> None:
        self.asked.set()
        if self.away.is_set():
            raise ConnectionError("postgresql://me:secret@host does not answer")
        if self.refuses.intersection(names):
            raise ValueError("not with me")

    @property
    def steps(self) -> list[int]:
        return [point.step for call in self.calls for point in call]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)


def points(*steps: int, key: str = "loss") -> list[Point]:
    return [Point(key, 0.5, 0, step) for step in steps]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def make(store: FakeStore) -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def build(batch: int = 1000) -> Sender:
        is_outage = lambda error: isinstance(error, ConnectionError)  # noqa: E731
        made.append(Sender(store.write, is_outage, interval_s=0.01, max_wait_s=0.05, batch=batch))
        return made[-1]

    yield build
    for sender in made:
        sender.close(0.0)


def test_points_arrive_without_closing(store: FakeStore, make: Callable[..., Sender]) -> None:
    sender = make()
    sender.put(points(1, 2))
    store.wait_for(lambda: store.steps == [1, 2])


def test_closing_sends_what_is_queued_in_order_and_in_batches(store: FakeStore, make: Callable[..., Sender]) -> None:
    sender = make(batch=3)
    sender.put(points(*range(10)))
    sender.upload(store.upload("file"))
    unsent = sender.close(PATIENCE_S)
    assert store.steps == list(range(10))
    assert max(map(len, store.calls)) <= 3
    assert store.uploads == ["file"]
    assert (unsent.points, unsent.uploads) == ([], [])


def test_an_outage_loses_and_doubles_nothing_and_is_told_once(
    store: FakeStore, make: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    sender = make()
    store.away.set()
    sender.put(points(1))
    assert store.asked.wait(PATIENCE_S)
    sender.put(points(2))
    sender.upload(store.upload("file"))
    store.asked.clear()
    assert store.asked.wait(PATIENCE_S)
    store.away.clear()
    store.wait_for(lambda: store.steps == [1, 2] and store.uploads == ["file"])
    assert sender.close(PATIENCE_S).points == []
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "does not answer" in told[0] and "secret" not in told[0]
    assert "answers again" in told[1]


def test_artifacts_that_have_no_place_are_told_once_while_values_arrive(
    store: FakeStore, make: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    tried = threading.Semaphore(0)

    def send() -> None:
        tried.release()
        raise ConnectionError("the bucket does not answer")

    sender = make()
    sender.upload(Upload("file", Path("file"), send))
    for step in range(4):
        sender.put(points(step))
        assert tried.acquire(timeout=PATIENCE_S)
    store.wait_for(lambda: len(store.steps) >= 3)
    assert sender.away
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["tracking"]


def test_what_an_absent_store_does_not_take_is_handed_back(store: FakeStore, make: Callable[..., Sender]) -> None:
    store.away.set()
    sender = make()
    sender.put(points(1, 2))
    upload = store.upload("file")
    sender.upload(upload)
    unsent = sender.close(0.1)
    assert unsent.points == points(1, 2)
    assert unsent.uploads == [upload]


def test_a_refused_item_is_handed_back_and_holds_nothing_up(store: FakeStore, make: Callable[..., Sender]) -> None:
    store.refuses = {"bad"}
    sender = make(batch=1)
    bad = store.upload("bad")
    sender.put([*points(1, key="bad"), *points(2)])
    sender.upload(bad)
    sender.upload(store.upload("good"))
    unsent = sender.close(PATIENCE_S)
    assert store.steps == [2]
    assert store.uploads == ["good"]
    assert unsent.points == points(1, key="bad")
    assert unsent.uploads == [bad]


def test_one_refused_point_does_not_take_its_batch_along(
    store: FakeStore, make: Callable[..., Sender], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store.refuses = {"bad"}
    sender = make()
    sender.put([*points(*range(7)), *points(1, 2, key="bad"), *points(*range(7, 20))])
    unsent = sender.close(PATIENCE_S)
    assert store.steps == list(range(20))
    assert unsent.points == points(1, 2, key="bad") == sender.pending()
    assert [record.getMessage() for record in caplog.records] == [
        "tracking: bad could not be recorded: ValueError: not with me"
    ]


def test_pending_is_all_that_has_not_been_taken(store: FakeStore, make: Callable[..., Sender]) -> None:
    sender = make()
    sender.put(points(1))
    store.wait_for(lambda: store.steps == [1])
    store.away.set()
    sender.put(points(2))
    store.asked.clear()
    assert store.asked.wait(PATIENCE_S)
    sender.put(points(3))
    assert sender.pending() == points(2, 3)
    store.away.clear()
    sender.close(PATIENCE_S)
    assert sender.pending() == []


def test_an_upload_replaces_those_of_its_name_that_wait(store: FakeStore, make: Callable[..., Sender]) -> None:
    store.away.set()
    sender = make()
    first, second, third = store.upload("a"), store.upload("b"), store.upload("b")
    assert sender.upload(first, replace=True) == []
    assert sender.upload(second, replace=True) == []
    assert sender.upload(store.upload("a"), replace=True) == [], "the first one may be on its way"
    assert sender.upload(third, replace=True) == [second]
    assert sender.upload(store.upload("b")) == []
    store.away.clear()
    sender.close(PATIENCE_S)
    assert store.uploads == ["a", "a", "b", "b"]


def test_a_slow_store_is_given_smaller_batches(store: FakeStore, make: Callable[..., Sender]) -> None:
    store.away.set()
    sender = make(batch=400)
    sender.put(points(*range(1000)))
    for _ in range(3):
        store.asked.clear()
        assert store.asked.wait(PATIENCE_S)
    store.away.clear()
    sender.close(PATIENCE_S)
    assert store.steps == list(range(1000))
    assert len(store.calls[0]) in (50, 100) and max(map(len, store.calls)) > 100


def test_putting_never_waits_for_a_stuck_store(make: Callable[..., Sender], store: FakeStore) -> None:
    release = threading.Event()
    sender = make()
    sender.upload(Upload("stuck", Path("stuck"), lambda: assert_set(release)))
    sender.put(points(1))
    unsent = sender.close(0.2)
    assert [upload.what for upload in unsent.uploads] == ["stuck"]
    release.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)
