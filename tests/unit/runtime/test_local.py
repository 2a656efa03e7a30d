"""The executor of this process, and the worker by itself."""

from __future__ import annotations

import os

import pytest
import torch

from distmeta.config import RuntimeConfig
from distmeta.core.types import Snapshot, Work
from distmeta.runtime import build_executor
from distmeta.runtime.messages import Location, Requests
from distmeta.runtime.ray.actor import WorkerActor
from distmeta.runtime.wire import encode_snapshot
from distmeta.runtime.worker import Worker

from ...fakes import FakeRecipe, make_params, make_shards


def test_the_number_of_threads_is_set_and_restored() -> None:
    before = torch.get_num_threads()
    executor = build_executor(RuntimeConfig(executor="local", threads_per_worker=before + 1), FakeRecipe())
    (result,) = executor.map(Work("about"), Snapshot(0, make_params()), make_shards(1))
    executor.close()
    assert result.value["threads"] == before + 1
    assert torch.get_num_threads() == before
    executor.close()


def test_the_next_shard_is_prepared_also_across_calls() -> None:
    executor = build_executor(RuntimeConfig(executor="local"), FakeRecipe())
    shards, upcoming = make_shards(3), make_shards(2, first_seed=500)
    results = list(executor.map(Work("about"), Snapshot(0, make_params()), shards, upcoming))
    executor.close()
    assert [result.value["prepared"] for result in results] == [(1,), (1, 2), (1, 2, 0)]


def test_a_worker_decodes_a_snapshot_once() -> None:
    worker = Worker(0, FakeRecipe().build(), torch.get_num_threads())
    first, shard = encode_snapshot(Snapshot(4, make_params()), serial=1), make_shards(1)[0]
    assert worker.run(Work("about"), first, shard, None).value["snapshots"] == 1
    assert worker.run(Work("about"), first, shard, None).value["snapshots"] == 1
    # An average of the parameters has the version of the parameters, and is another snapshot.
    average = encode_snapshot(Snapshot(4, {name: tensor * 0 for name, tensor in make_params().items()}), serial=2)
    assert worker.run(Work("about"), average, shard, None).value["snapshots"] == 2


class InProcessActor(WorkerActor):
    """The actor's class in this process."""

    def locate(self) -> Location:
        return Location("node", "127.0.0.1", os.getpid())


def test_an_actor_builds_its_worker_when_it_is_started() -> None:
    actor = InProcessActor()
    actor.start(3, FakeRecipe(), torch.get_num_threads(), "none")
    wire, shard = encode_snapshot(Snapshot(0, make_params()), 1, Work("update")), make_shards(1)[0]
    result = actor.run(Requests().pack(1, shard, None), wire)
    assert result is not None
    assert (result.worker, result.data_wait_s, result.compute_s) == (3, 0.25, 0.5)


def test_a_cancelled_shard_is_skipped() -> None:
    actor = InProcessActor()
    actor.start(3, FakeRecipe("raise", shard=0), torch.get_num_threads(), "none")
    wire, shard = encode_snapshot(Snapshot(0, make_params()), 1, Work("update")), make_shards(1)[0]
    actor.cancel((1, 0))
    assert actor.run(Requests().pack(1, shard, None), wire) is None
    with pytest.raises(ValueError, match="boom"):
        actor.run(Requests().pack(2, shard, None), wire)
