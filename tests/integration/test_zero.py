"""All weights of a small BERT, held by the ranks of a worker: the bits of one process, whoever is killed or joins."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from distmeta import checkpoint, methods
from distmeta.config import (
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TextTasks,
    TrackingConfig,
    TrainConfig,
)
from distmeta.config.load import change
from distmeta.config.models import TransformerConfig
from distmeta.config.petl import FullConfig
from distmeta.core.seeding import mix
from distmeta.core.tensors import global_norm
from distmeta.core.types import Params, Shard, Snapshot, Update, Work
from distmeta.data.store import write_store
from distmeta.runtime.ray.executor import RayExecutor
from distmeta.runtime.ray.worker_group import WorkerGroup
from distmeta.training import TrainResult, train

from ..packages import needs

pytestmark = [
    needs("deepspeed"),
    needs("transformers"),
    pytest.mark.xdist_group("ray"),
    pytest.mark.thorough,
    pytest.mark.timeout(600),
]
SLOW = pytest.mark.slow

STEPS = 4
CLASSES, TEXTS = 9, 12
SPLITS = {"only": {"train": [0, 1, 2, 3], "val": [4, 5, 6], "test": [7, 8]}}
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 64,
    "max_position_embeddings": 16,
}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])


@pytest.fixture(scope="module", autouse=True)
def _this_module_by_value() -> Iterator[None]:
    """Workers cannot import the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A run of Reptile in the current folder, of which outer.zero changes no bit. Its shards have three tasks."""
    folder = tmp_path_factory.mktemp("zero")
    rows = [
        " ".join(f"w{mix(label, text, place) % 20 + label}" for place in range(3 + text % 4))
        for label in range(CLASSES)
        for text in range(TEXTS)
    ]
    names = [f"class{label}" for label in range(CLASSES)]
    write_store(folder / "texts", rows, class_names=names, class_counts=[TEXTS] * CLASSES, splits=SPLITS)
    before = Path.cwd()
    os.chdir(folder)
    yield RunConfig(
        name="base",
        tasks=TextTasks(
            store=str(folder / "texts"), way=2, shots=2, queries=2, eval_queries=3, tokenizer="words:60", buckets=(12,)
        ),
        model=TransformerConfig(architecture=BERT, petl=(FullConfig(),)),
        algorithm=methods.reptile(steps=2, batch=2, eval_steps=2),
        outer=OuterConfig(optimizer="Adam", lr=1e-3, clip_norm=0.01, schedule="cosine"),
        engine=EngineConfig(strategy="loop"),
        train=TrainConfig(steps=STEPS, tasks_per_step=5),
        runtime=RuntimeConfig(executor="local", workers=1, shard_size=3),
        evaluation=EvaluationConfig(every=2, tasks=4, final_tasks=4),
        tracking=TrackingConfig(kind="none"),
    )
    os.chdir(before)


def run(base: RunConfig, name: str, *changes: str, **arguments: Any) -> TrainResult:
    return train(change(base, [f"name={name}", *changes]), quiet=True, **arguments)


def on(ranks: int, stage: int = 2) -> tuple[str, ...]:
    return "runtime.executor=ray", f"runtime.ranks={ranks}", f"outer.zero={stage}"


@pytest.fixture(scope="module")
def plain(base: RunConfig) -> TrainResult:
    """The run in one process, with the parameter server and torch's Adam."""
    return run(base, "plain")


@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_one_rank_in_this_process_gives_the_bits_of_the_parameter_server(
    base: RunConfig, plain: TrainResult, stage: int
) -> None:
    result = run(base, f"alone-{stage}", f"outer.zero={stage}")
    assert result.digest == plain.digest
    assert result.scores == plain.scores
    assert result.evaluations[0].scores == plain.evaluations[0].scores
    numbers = {step: {key: value for key, value in logged.items()} for step, logged in plain.metrics.items()}
    assert result.metrics == numbers


@pytest.mark.parametrize(
    ("stage", "ranks"), [pytest.param(1, 2, marks=SLOW), pytest.param(2, 2, marks=SLOW), pytest.param(2, 3, marks=SLOW)]
)
def test_any_number_of_ranks_gives_the_bits_of_the_parameter_server(
    ray_cluster: None, base: RunConfig, plain: TrainResult, stage: int, ranks: int
) -> None:
    """Shards of three and two tasks: with two ranks, one repeats a task and drops the result."""
    result = run(base, f"zero-{stage}-{ranks}", *on(ranks, stage))
    assert result.digest == plain.digest
    assert result.scores == plain.scores
    assert result.metrics == plain.metrics  # the norm of the whole gradient among them
    whole, parts = (checkpoint.load(each.checkpoint).state for each in (plain, result))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(torch.as_tensor(whole[key]), torch.as_tensor(parts[key])) for key in whole if key[0] != "o")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "fomaml",
            ("algorithm.estimator={kind: backprop, order: 1}", "outer.optimizer=AdamW", "engine.strategy=vmap"),
        ),
        pytest.param(
            "momentum",
            ("outer.optimizer=SGD", "outer.options={momentum: 0.9, nesterov: true}", "outer.clip_norm=null"),
            marks=SLOW,
        ),
        pytest.param("descent", ("outer.optimizer=SGD", "outer.lr=1.0"), marks=SLOW),
    ],
)
@pytest.mark.slow
def test_first_order_maml_and_other_optimizers(
    ray_cluster: None, base: RunConfig, name: str, changes: tuple[str, ...]
) -> None:
    result = run(base, name, *changes, *on(2))
    if "engine.strategy=vmap" in changes:  # which has chunks of one task here, and of a shard without outer.zero
        changes = (*changes, "engine.chunk=1")
    plain = run(base, f"{name}-plain", *changes)
    assert result.digest == plain.digest
    assert result.scores == plain.scores


@pytest.mark.parametrize(("before", "after"), [pytest.param(2, 1, marks=SLOW), pytest.param(1, 2, marks=SLOW)])
def test_a_run_is_resumed_on_another_number_of_ranks(
    ray_cluster: None, base: RunConfig, plain: TrainResult, before: int, after: int
) -> None:
    """Stopped after an odd step, with half of Adam's state on each of two ranks."""
    name, changes = f"resumed-{before}-{after}", ("outer.schedule=constant",)
    undisturbed = run(base, f"undisturbed-{before}-{after}", *changes)
    first = run(base, name, *changes, *on(before), "train.steps=3")
    assert first.steps == 3
    second = run(base, name, *changes, *on(after), resume=True)
    assert second.steps == STEPS
    assert second.digest == undisturbed.digest
    assert second.scores == undisturbed.scores


@pytest.mark.slow
def test_a_rank_killed_in_mid_step_changes_no_bit(
    ray_cluster: None, base: RunConfig, plain: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps after the last checkpoint, which is that of step 0: the new group makes them again."""
    compute, submit, work, advances = RayExecutor._run, WorkerGroup.submit, "", 0

    def run_named(self: RayExecutor, call: Any) -> Any:
        nonlocal work
        work = call.work.name
        return compute(self, call)

    def kill_after_submitting(self: WorkerGroup, worker: Any, *rest: Any, **options: Any) -> None:
        nonlocal advances
        submit(self, worker, *rest, **options)
        advances += work == "advance"
        if advances == 3 and work == "advance":
            os.kill(worker.ranks[1].location.pid, signal.SIGKILL)

    monkeypatch.setattr(RayExecutor, "_run", run_named)
    monkeypatch.setattr(WorkerGroup, "submit", kill_after_submitting)
    result = run(base, "bereft", *on(2), "evaluation.every=0")
    assert result.digest == plain.digest
    assert (result.counts["worker_died"], result.counts["restarts"]) == (1, 1)
    # The third step is asked for twice in vain, then three steps, and the fourth.
    assert advances == 2 + 2 + 3 + 1


@dataclass(frozen=True)
class Sizes:
    """A program that makes two steps of Adam with given gradients on the ranks, and tells what each of them holds."""

    stage: int

    def build(self) -> Sizes:
        return self

    def prepare(self, work: Work, shard: Shard) -> None: ...

    def close(self) -> None: ...

    def timing(self) -> Mapping[str, float]:
        return {"data_wait_s": 0.0, "compute_s": 0.0}

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> list[dict[str, Any]]:
        from distmeta.core import ranks
        from distmeta.engine.ranks import PART
        from distmeta.engine.zero import PartitionedWeights

        config = OuterConfig(lr=1e-3, zero=2 if self.stage == 2 else 1)
        group = ranks.current
        weights = PartitionedWeights(snapshot.params, {}, 0, config, 10, group)
        grad = gradient_of(snapshot.params)
        before = weights.part_bytes
        for _ in range(2):
            parts = weights.divide(grad)
            total = sum(parts[1:], start=parts[0])
            record = weights.step(Update({PART: total} if self.stage == 2 else grad, 2.0))
        assert record is not None
        infinite = {name: tensor * float("inf") for name, tensor in grad.items()}
        [*parts] = weights.divide(infinite)
        refused = weights.step(Update({PART: parts[0]} if self.stage == 2 else infinite, 1.0))
        found = {
            "before": before,
            "state": weights.part_bytes,
            "gradient": total.nbytes,
            "norm": record.outer["grad_norm"],
            "refused": (refused, weights.version),
            "params": weights.params,
        }
        weights.close()
        return group.gather(found)


def gradient_of(params: Params) -> Params:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}


@pytest.mark.parametrize("stage", [pytest.param(1, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_each_of_two_ranks_has_half_of_the_state_and_of_the_gradient(ray_cluster: None, stage: int) -> None:
    """Blocks of the norm, and parameters, lie across the parts."""
    params = {"a": torch.randn(300, 130), "number": torch.randn(()), "b": torch.randn(77), "c": torch.randn(40001)}
    executor = RayExecutor(RuntimeConfig(workers=1, ranks=2), Sizes(stage))
    try:
        executor.ready()
        [result] = executor.map(Work("sizes"), Snapshot(0, params), [Shard(0, ())])
    finally:
        executor.close()
    entries = sum(tensor.numel() for tensor in params.values())
    scale = {1: 0.5, 2: 1.0}[stage]  # stage 2 adds the gradients of two ranks, and divides them by 2
    grad = {name: tensor * scale for name, tensor in gradient_of(params).items()}
    expected = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in params.items()}
    adam = torch.optim.Adam(expected.values(), lr=1e-3)
    for _ in range(2):
        for name, tensor in expected.items():
            tensor.grad = grad[name].clone()
        adam.step()
    for found in result.value:
        assert found["before"] == 0
        assert 2 * 4 * entries / 2 <= found["state"] < 2 * 4 * (entries / 2 + 4) + 8  # two moments, and the count
        assert 4 * entries / 2 <= found["gradient"] < 4 * (entries / 2 + 4)
        assert found["norm"] == global_norm(grad)
        assert found["refused"] == (None, 2)
        assert all(torch.equal(found["params"][name], expected[name]) for name in params)
