"""Workers of two ranks on real Ray actors: exact meta-gradients, half of the memory, one digest whatever is killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from torch import Tensor

from distmeta import methods
from distmeta.config import (
    EngineConfig,
    EvaluationConfig,
    PythonModel,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    ToleranceConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.config.load import change
from distmeta.config.models import TransformerConfig
from distmeta.config.petl import LoraConfig
from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError
from distmeta.core.types import Params, Shard, Snapshot, Work
from distmeta.data.store import write_store
from distmeta.models.base import Frame
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.training import TrainResult, train

from .. import fakes
from ..fakes import FakeRecipe, make_params, make_shards
from ..packages import needs

pytestmark = [needs("deepspeed"), pytest.mark.xdist_group("ray"), pytest.mark.thorough]

NET = Path(__file__).with_name("frozen_net.py")
STEPS = 4


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])


@pytest.fixture(scope="module", autouse=True)
def _this_module_by_value() -> Iterator[None]:
    """Workers cannot import the tests."""
    modules = (fakes, sys.modules[__name__])
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@dataclass(frozen=True)
class Comparison:
    """A program that compares the network in parts with a whole copy, on every rank."""

    folder: str

    def build(self) -> Comparison:
        return self

    def prepare(self, work: Work, shard: Shard) -> None: ...

    def close(self) -> None: ...

    def timing(self) -> Mapping[str, float]:
        return {"data_wait_s": 0.0, "compute_s": 0.0}

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> list[dict[str, Any]]:
        from distmeta.core import ranks
        from distmeta.models.petl.frozen import frozen_embedding, gatherings
        from distmeta.models.petl.partition import partition, resident_bytes

        sys.path.insert(0, self.folder)
        from frozen_net import FrozenNet

        shape, heads = (1,), {"head": 1}
        divided, whole = FrozenNet(shape, heads, torch.float32), FrozenNet(shape, heads, torch.float32, ranks.Ranks())
        meta = whole.init(0)
        # Each rank has tasks of its own.
        generator = torch.Generator().manual_seed(ranks.current.rank)
        xs, ys = (torch.rand(3, 2, 5, 1, generator=generator) for _ in range(2))
        found: dict[str, Any] = {
            "bytes": (resident_bytes(divided.body), resident_bytes(whole.body)),
            "entries": [layer["weight"].numel() for layer in divided.body],
        }
        for order in (1, 2):
            expected, actual = (meta_gradient(net, meta, xs, ys, order) for net in (whole, divided))
            found[f"order {order}"] = error_of(actual, expected)
        found["orders differ"] = error_of(meta_gradient(whole, meta, xs, ys, 1), expected)
        in_memory = FrozenNet(shape, heads, torch.float32, replace(ranks.current, offload="cpu"))
        expected, actual = (meta_gradient(net, meta, xs, ys, 2) for net in (divided, in_memory))
        found["offload"] = all(torch.equal(actual[name], expected[name]) for name in meta)
        table = torch.nn.Embedding(200, 100).requires_grad_(False)
        plain = table.weight.detach().clone()
        partition(table)  # of the values of rank 0

        def picked(scale: Tensor, ids: Tensor) -> Tensor:
            return (scale * frozen_embedding(ids, table.weight)).sum()

        rows = torch.arange(12).reshape(3, 4) + ranks.current.rank
        slopes = torch.vmap(torch.func.grad(picked), in_dims=(None, 0))(torch.ones(()), rows)
        found["rows"] = (table.weight.numel(), slopes, plain[rows].sum((1, 2)) if ranks.current.rank == 0 else None)
        found["gatherings"] = gatherings.count
        return ranks.current.gather(found)


def error_of(actual: Params, expected: Params) -> float:
    """The largest relative error of a tensor."""
    return max(((actual[name] - expected[name]).norm() / expected[name].norm()).item() for name in expected)


def meta_gradient(net: Any, meta: Params, xs: Tensor, ys: Tensor, order: int) -> Params:
    """Of one inner step, summed over the tasks by vmap: xs, ys [T, 2 (support, query), N, 1]."""

    def loss(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs: Tensor = net.head(params, net.features(params, x, Frame()))
        return ((outputs - y) ** 2).mean()

    def task(params: Params, x: Tensor, y: Tensor) -> Tensor:
        inner = torch.func.grad(loss)(params, x[0], y[0])
        inner = inner if order == 2 else {name: tensor.detach() for name, tensor in inner.items()}
        return loss({name: params[name] - 0.5 * inner[name] for name in params}, x[1], y[1])

    def outer(params: Params) -> Tensor:
        return torch.vmap(task, in_dims=(None, 0, 0))(params, xs, ys).sum()

    gradient: Params = torch.func.grad(outer)(meta)
    return gradient


def test_two_ranks_hold_half_and_have_the_exact_meta_gradients(ray_cluster: None) -> None:
    executor = RayExecutor(RuntimeConfig(workers=1, ranks=2), Comparison(str(NET.parent)))
    try:
        executor.ready()
        [incident] = executor.incidents()
        assert incident.kind == "started"
        assert "2 ranks have started: placement" in incident.detail
        [result] = executor.map(Work("compare"), Snapshot(0, {"x": torch.zeros(())}), make_shards(1))
    finally:
        executor.close()
    first, second = result.value
    (left, slopes, expected), (_, others, _) = first["rows"], second["rows"]
    assert left == 0
    torch.testing.assert_close(slopes, expected)
    assert not torch.equal(slopes, others)
    assert first["gatherings"] == second["gatherings"] > 0
    for found in (first, second):
        resident, all_bytes = found["bytes"]
        assert found["entries"] == [128, 0, 0, 0]
        assert 0.5 < resident / all_bytes < 0.52
        assert found["offload"]
        assert found["orders differ"] > 1e-2
        assert found["order 1"] < 1e-5
        assert found["order 2"] < 1e-5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A run of the network in the current folder; its shards have an odd number of tasks."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copy(NET, folder)
    before = Path.cwd()
    os.chdir(folder)
    yield RunConfig(
        name="base",
        tasks=SinusoidTasks(shots=5, queries=5),
        model=PythonModel(target="frozen_net.py:FrozenNet"),
        algorithm=methods.maml(lr=0.05, steps=2, eval_steps=2),
        engine=EngineConfig(strategy="loop"),
        train=TrainConfig(steps=STEPS, tasks_per_step=6),
        runtime=RuntimeConfig(workers=1, shard_size=3),
        evaluation=EvaluationConfig(every=0, tasks=4, final_tasks=4),
        tracking=TrackingConfig(kind="none"),
    )
    os.chdir(before)


def run(base: RunConfig, name: str, *changes: str) -> TrainResult:
    return train(change(base, [f"name={name}", *changes]), quiet=True)


@pytest.fixture(scope="module")
def undisturbed(base: RunConfig) -> TrainResult:
    """The run in one process, with whole weights."""
    return run(base, "undisturbed", "runtime.executor=local")


@pytest.mark.slow
def test_two_ranks_give_the_bits_of_one(ray_cluster: None, base: RunConfig) -> None:
    """Three tasks a shard in chunks of two: the second rank has a smaller one."""
    changes = ("engine.strategy=vmap", "engine.chunk=2")
    one = run(base, "one", *changes, "runtime.executor=local")
    two = run(base, "two", *changes, "runtime.ranks=2")
    assert two.digest == one.digest
    assert two.scores == one.scores


@pytest.mark.slow
@pytest.mark.parametrize(
    "recompute", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "blocks computed again"]
)
def test_a_transformer_in_parts_gives_the_bits_of_a_whole_one(
    recompute: bool, ray_cluster: None, base: RunConfig, tmp_path: Path
) -> None:
    """LoRA on a small decoder with rounded matrices, second order, texts of several lengths."""
    texts = [f"{'word ' * (1 + number % 5)}of {kind} {number}" for kind in "abcdefghi" for number in range(5)]
    splits = {"classes": {"train": [0, 1, 2], "val": [3, 4, 5], "test": [6, 7, 8]}}
    write_store(tmp_path / "texts", texts, class_names=list("abcdefghi"), class_counts=(5,) * 9, splits=splits)
    sizes = {"n_embd": 128, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 160}
    config = base.model_copy(
        update={
            "tasks": TextTasks(
                store=str(tmp_path / "texts"), tokenizer="words", buckets=(16,), way=2, queries=2, eval_queries=2
            ),
            "model": TransformerConfig(
                architecture={"model_type": "gpt2", **sizes, "bos_token_id": None, "eos_token_id": None},
                petl=(LoraConfig(targets=("fused", "ffn_in")),),
                frozen_dtype="bfloat16",
                recompute=recompute,
            ),
            "engine": EngineConfig(strategy="vmap", chunk=2),
            "train": TrainConfig(steps=2, tasks_per_step=3),
        }
    )
    one = run(config, f"whole-{recompute}", "runtime.executor=local")
    two = run(config, f"parts-{recompute}", "runtime.ranks=2")
    assert two.digest == one.digest
    assert two.scores == one.scores


@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ranks_killed_in_mid_step_change_no_bit(
    ray_cluster: None, base: RunConfig, undisturbed: TrainResult, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    """One rank of the worker, later both of them. Three tasks a shard: the second rank repeats one for the others."""
    submit, count = WorkerGroup.submit, 0

    def kill_after_submitting(self: WorkerGroup, worker: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        submit(self, worker, *args, **kwargs)
        count += 1
        for rank in {3: worker.ranks[1:], 6: worker.ranks if both else []}.get(count, []):
            os.kill(rank.location.pid, signal.SIGKILL)

    monkeypatch.setattr(WorkerGroup, "submit", kill_after_submitting)
    result = run(base, f"bereft-{both}", "runtime.ranks=2")
    assert result.digest == undisturbed.digest
    assert (result.counts["worker_died"], result.counts["restarts"]) == (1 + both, 1 + both)


@pytest.mark.slow
def test_a_stopped_rank_is_found_and_its_worker_replaced(ray_cluster: None) -> None:
    tolerance = ToleranceConfig(heartbeat_timeout_s=2.0)
    executor = RayExecutor(RuntimeConfig(workers=1, ranks=2, tolerance=tolerance), FakeRecipe(seconds=0.01))
    try:
        executor.ready()
        location = executor._worker_group.workers[0].ranks[1].location
        assert location is not None
        os.kill(location.pid, signal.SIGSTOP)
        while not executor.counts["silent"]:
            results = list(executor.map(Work("update"), Snapshot(0, make_params()), make_shards(3)))
            assert sorted(result.shard for result in results) == [0, 1, 2]
        executor.ready()
        silent = next(each for each in executor.incidents() if each.kind == "silent")
        assert silent.detail.startswith("rank 1: no heartbeat for 2 s")
        with pytest.raises(ProcessLookupError):
            os.kill(location.pid, 0)
    finally:
        executor.close()


def test_ranks_that_do_not_fit_are_refused(ray_cluster: None) -> None:
    with pytest.raises(UserError, match=r"^runtime.workers: not enough resources for 1 workers of 2 ranks of 50 CPUs"):
        RayExecutor(RuntimeConfig(workers=1, ranks=2, cpus_per_worker=50.0), FakeRecipe(), placement_timeout_s=0.5)
