"""The sender, with a fake store that can be slow, unavailable, or reject items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from distmeta.tracking.base import MetricPoint
from distmeta.tracking.sender import Sender, Upload

from ...logged import Logged

TIMEOUT_S = 30.0
MakeSender = Callable[..., Sender]


class FakeStore:
    """Records what it receives. While it is unavailable, every call fails with ConnectionError."""

    def __init__(self) -> None:
        self.calls: list[list[MetricPoint]] = []
        self.uploads: list[str] = []
        self.unavailable = threading.Event()
        self.called, self.changed = threading.Event(), threading.Condition()
        self.rejected_names: set[str] = set()

    def write(self, points: Sequence[MetricPoint]) -> None:
        self._respond(*(point.key for point in points))
        with self.changed:
            self.calls.append(list(points))
            self.changed.notify_all()

    def upload(self, name: str) -> Upload:
        def send() -> None:
            self._respond(name)
            with self.changed:
                self.uploads.append(name)
                self.changed.notify_all()

        return Upload(name, Path(name), send)

    def _respond(self, *names: str) -> None:
        self.called.set()
        if self.unavailable.is_set():
            raise ConnectionError("postgresql://me:secret@host is unavailable")
        if self.rejected_names.intersection(names):
            raise ValueError("invalid value")

    @property
    def steps(self) -> list[int]:
        return [point.step for call in self.calls for point in call]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S)


def points(*steps: int, key: str = "loss") -> list[MetricPoint]:
    return [MetricPoint(key, 0.5, 0, step) for step in steps]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def make_sender(store: FakeStore) -> Iterator[MakeSender]:
    senders: list[Sender] = []

    def build(batch_size: int = 1000, interval_s: float = 0.01) -> Sender:
        is_outage = lambda error: isinstance(error, ConnectionError)  # noqa: E731
        senders.append(Sender(store.write, is_outage, interval_s=interval_s, max_wait_s=0.05, batch_size=batch_size))
        return senders[-1]

    yield build
    for sender in senders:
        sender.close(0.0)


def test_points_arrive_without_closing(store: FakeStore, make_sender: MakeSender) -> None:
    sender = make_sender()
    sender.put(points(1, 2))
    store.wait_for(lambda: store.steps == [1, 2])


def test_closing_sends_what_is_queued_in_order_and_in_batches(store: FakeStore, make_sender: MakeSender) -> None:
    sender = make_sender(batch_size=3)
    sender.put(points(*range(10)))
    sender.upload(store.upload("file"))
    unsent = sender.close(TIMEOUT_S)
    assert store.steps == list(range(10))
    assert max(map(len, store.calls)) <= 3
    assert store.uploads == ["file"]
    assert (unsent.points, unsent.uploads) == ([], [])


def test_an_outage_neither_loses_nor_duplicates_values_and_is_logged_once(
    store: FakeStore, make_sender: MakeSender, logged: Logged
) -> None:
    sender = make_sender()
    store.unavailable.set()
    sender.put(points(1))
    assert store.called.wait(TIMEOUT_S)
    sender.put(points(2))
    sender.upload(store.upload("file"))
    store.called.clear()
    assert store.called.wait(TIMEOUT_S)
    store.unavailable.clear()
    store.wait_for(lambda: store.steps == [1, 2] and store.uploads == ["file"])
    assert sender.close(TIMEOUT_S).points == []
    messages = [record.getMessage() for record in logged.records]
    assert len(messages) == 2
    assert "is unavailable" in messages[0] and "secret" not in messages[0]
    assert "available again" in messages[1]


def test_an_outage_of_the_artifact_store_is_logged_once_while_values_arrive(
    store: FakeStore, make_sender: MakeSender, logged: Logged
) -> None:
    attempts = threading.Semaphore(0)

    def send() -> None:
        attempts.release()
        raise ConnectionError("the bucket is unavailable")

    sender = make_sender()
    sender.upload(Upload("file", Path("file"), send))
    for step in range(4):
        sender.put(points(step))
        assert attempts.acquire(timeout=TIMEOUT_S)
    store.wait_for(lambda: len(store.steps) >= 3)
    assert sender.unavailable
    assert [record.getMessage().partition(":")[0] for record in logged.records] == ["tracking"]


def test_close_returns_what_an_unavailable_store_did_not_receive(store: FakeStore, make_sender: MakeSender) -> None:
    store.unavailable.set()
    sender = make_sender()
    sender.put(points(1, 2))
    upload = store.upload("file")
    sender.upload(upload)
    unsent = sender.close(0.1)
    assert unsent.points == points(1, 2)
    assert unsent.uploads == [upload]


def test_a_rejected_item_is_returned_and_does_not_block_others(store: FakeStore, make_sender: MakeSender) -> None:
    store.rejected_names = {"bad"}
    sender = make_sender(batch_size=1)
    bad = store.upload("bad")
    sender.put([*points(1, key="bad"), *points(2)])
    sender.upload(bad)
    sender.upload(store.upload("good"))
    unsent = sender.close(TIMEOUT_S)
    assert store.steps == [2]
    assert store.uploads == ["good"]
    assert unsent.points == points(1, key="bad")
    assert unsent.uploads == [bad]


def test_a_rejected_point_does_not_drop_its_batch(store: FakeStore, make_sender: MakeSender, logged: Logged) -> None:
    store.rejected_names = {"bad"}
    sender = make_sender()
    sender.put([*points(*range(7)), *points(1, 2, key="bad"), *points(*range(7, 20))])
    unsent = sender.close(TIMEOUT_S)
    assert store.steps == list(range(20))
    assert unsent.points == points(1, 2, key="bad") == sender.pending()
    assert [record.getMessage() for record in logged.records] == [
        "tracking: bad could not be recorded: ValueError: invalid value"
    ]


def test_pending_lists_all_points_that_were_not_sent(store: FakeStore, make_sender: MakeSender) -> None:
    sender = make_sender()
    sender.put(points(1))
    store.wait_for(lambda: store.steps == [1])
    store.unavailable.set()
    sender.put(points(2))
    store.called.clear()
    assert store.called.wait(TIMEOUT_S)
    sender.put(points(3))
    assert sender.pending() == points(2, 3)
    store.unavailable.clear()
    sender.close(TIMEOUT_S)
    assert sender.pending() == []


def test_an_upload_replaces_queued_ones_of_the_same_name(store: FakeStore, make_sender: MakeSender) -> None:
    store.unavailable.set()
    sender = make_sender()
    first, second, third = store.upload("a"), store.upload("b"), store.upload("b")
    assert sender.upload(first, replace=True) == []
    assert sender.upload(second, replace=True) == []
    assert sender.upload(store.upload("a"), replace=True) == [], "the first one may be in progress"
    assert sender.upload(third, replace=True) == [second]
    assert sender.upload(store.upload("b")) == []
    store.unavailable.clear()
    sender.close(TIMEOUT_S)
    assert store.uploads == ["a", "a", "b", "b"]


def test_batches_are_smaller_after_an_outage(store: FakeStore, make_sender: MakeSender) -> None:
    store.unavailable.set()
    sender = make_sender(batch_size=400)
    sender.put(points(*range(1000)))
    for _ in range(3):
        store.called.clear()
        assert store.called.wait(TIMEOUT_S)
    store.unavailable.clear()
    sender.close(TIMEOUT_S)
    assert store.steps == list(range(1000))
    assert len(store.calls[0]) in (50, 100) and max(map(len, store.calls)) > 100


def test_put_does_not_wait_for_a_blocked_store(make_sender: MakeSender, store: FakeStore) -> None:
    release = threading.Event()
    sender = make_sender()
    sender.upload(Upload("blocked", Path("blocked"), lambda: assert_set(release)))
    sender.put(points(1))
    unsent = sender.close(0.2)
    assert [upload.name for upload in unsent.uploads] == ["blocked"]
    release.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(TIMEOUT_S)


def test_an_urgent_upload_does_not_wait_for_the_end_of_the_interval(store: FakeStore, make_sender: MakeSender) -> None:
    sender = make_sender(interval_s=10 * TIMEOUT_S)
    sender.put(points(1))
    sender.upload(store.upload("picture"))
    assert store.uploads == []
    sender.upload(store.upload("model"), at_once=True)
    store.wait_for(lambda: store.uploads == ["picture", "model"])
    assert store.steps == [1]
