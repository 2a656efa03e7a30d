"""The bookkeeping of one worker, by a clock that is counted by hand."""

from __future__ import annotations

from distmeta.runtime.messages import Location
from distmeta.runtime.ray.worker_handle import State, WorkerHandle

TIMEOUT_S = 8.0
"""Heartbeats are requested after 2 s of silence."""


def make_ready(now: float = 0.0, state: State = "ready") -> WorkerHandle:
    worker = WorkerHandle(0)
    worker.created(["actor"], now)
    worker.enter(state, now)
    return worker


def test_a_new_actor_starts_without_queue_and_location() -> None:
    worker = make_ready()
    worker.ranks[0].location = Location("0123456789", "10.0.0.1", 7)
    worker.enqueue((1, 0), 1.0)
    assert (worker.node, worker.node_id) == ("10.0.0.1 (01234567)", "0123456789")
    worker.stopped()
    assert (worker.actor, worker.queue) == (None, [])
    worker.created(["replacement"], 5.0)
    assert (worker.actor, worker.state, worker.state_since) == ("replacement", "pending", 5.0)
    assert (worker.node, worker.node_id, worker.ranks[0].last_heard) == ("", "", 5.0)


def test_active_are_workers_that_compute() -> None:
    states: list[State] = ["pending", "starting", "ready", "draining", "backoff", "excluded"]
    assert [state for state in states if make_ready(state=state).is_active] == ["ready", "draining"]


def test_a_shard_is_overdue_by_the_time_since_it_became_the_first() -> None:
    worker = make_ready()
    worker.enqueue((1, 0), 0.0)
    worker.enqueue((1, 1), 1.0)
    assert not worker.is_overdue(10.0, 10.0)
    assert worker.is_overdue(10.5, 10.0)
    worker.ranks[0].last_heard = 9.0
    worker.dequeue((1, 0))
    assert not worker.is_overdue(19.0, 10.0)
    assert worker.is_overdue(19.5, 10.0)
    worker.dequeue((1, 1))
    assert not worker.is_overdue(100.0, 10.0)


def test_heartbeats_are_requested_after_a_quarter_of_the_timeout() -> None:
    worker = make_ready()
    assert not worker.ranks_to_ping(1.9, TIMEOUT_S)
    assert worker.ranks_to_ping(2.0, TIMEOUT_S)
    worker.ranks[0].pinged(2.0)
    assert not worker.ranks_to_ping(3.9, TIMEOUT_S)
    assert worker.ranks_to_ping(4.0, TIMEOUT_S)
    assert not make_ready(state="pending").ranks_to_ping(100.0, TIMEOUT_S)


def test_a_worker_is_silent_when_no_request_was_answered_for_the_timeout() -> None:
    worker = make_ready()
    for now in (2.0, 4.0, 6.0, 8.0):
        worker.ranks[0].pinged(now)
    assert not worker.silent_ranks(8.0, TIMEOUT_S)
    assert worker.silent_ranks(8.1, TIMEOUT_S)
    worker.ranks[0].last_heard = 8.1
    assert not worker.silent_ranks(100.0, TIMEOUT_S)


def test_time_in_which_the_driver_requested_nothing_is_no_silence() -> None:
    worker = make_ready()
    worker.ranks[0].pinged(100.0)
    assert not worker.silent_ranks(105.0, TIMEOUT_S)
    assert worker.silent_ranks(106.5, TIMEOUT_S)


def make_ranks(count: int = 2) -> WorkerHandle:
    worker = WorkerHandle(3)
    worker.created([f"actor {index}" for index in range(count)], 0.0, placement="placement")
    worker.enter("ready", 0.0)
    return worker


def test_ranks_are_numbered_by_node_and_device_however_they_were_placed() -> None:
    worker = make_ranks(4)
    places = [("b", "10.0.0.2", "0"), ("a", "10.0.0.1", "1"), ("b", "10.0.0.2", "1"), ("a", "10.0.0.1", "0")]
    for rank, (node, host, gpus) in zip(worker.ranks, places, strict=True):
        rank.location = Location(node, host, 7, gpus)
    worker.sort_ranks()
    assert [rank.actor for rank in worker.ranks] == ["actor 3", "actor 1", "actor 0", "actor 2"]
    assert (worker.actor, worker.node_id, worker.node_ids) == ("actor 3", "a", {"a", "b"})
    assert worker.node == "10.0.0.1 (a), 10.0.0.2 (b)"
    assert worker.name_of(worker.ranks[1]) == "rank 1: "
    single = make_ready()
    assert single.name_of(single.ranks[0]) == ""


def test_every_rank_is_watched_for_itself() -> None:
    worker = make_ranks()
    first, second = worker.ranks
    first.last_heard = 9.0
    assert worker.ranks_to_ping(10.0, TIMEOUT_S) == [second]
    second.pinged(10.0)
    assert worker.silent_ranks(16.0, TIMEOUT_S) == []
    assert worker.silent_ranks(16.1, TIMEOUT_S) == [second]


def test_stopped_ranks_have_no_actors_but_are_still_named() -> None:
    worker = make_ranks()
    worker.ranks[1].location = Location("0123456789", "10.0.0.1", 7)
    worker.stopped()
    assert ([rank.actor for rank in worker.ranks], worker.placement, worker.start_up) == ([None, None], None, None)
    assert worker.node == "10.0.0.1 (01234567)"
