"""Strategies on a GPU compute what the plain loop computes in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from distmeta.config import Conv4Config, EngineConfig, MlpConfig, RunConfig
from distmeta.config.tasks import GlyphTasks, SinusoidTasks
from distmeta.core.types import Episode, Params
from distmeta.engine.engine import Engine
from distmeta.engine.graphs import compiled
from distmeta.methods import maml
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.tasks import build_source

from ...logged import Logged
from ...numerics.problems import LOOP, as_type, relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("native", "_all_captured")]
STRATEGIES = ["loop", "vmap", "compiled", "compiled_vmap"]
PROBLEMS = {
    "sine": {"tasks": SinusoidTasks(), "model": MlpConfig(hidden=(40, 40)), "algorithm": maml(lr=0.01, steps=3)},
    "conv4": {
        "tasks": GlyphTasks(way=5, shots=1, queries=1, size=28),
        "model": Conv4Config(filters=16),
        "algorithm": maml(),
    },
}
NUM_TASKS, NUM_CALLS = 4, 3
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
Problem = tuple[Learner, Estimator, Params, list[Episode]]


@pytest.fixture
def _all_captured(logged: Logged) -> Iterator[None]:
    """No graph falls back to running uncaptured, which would still be right."""
    yield
    assert not [record.message for record in logged.records if record.name.startswith("distmeta")]


def make(name: str) -> Problem:
    """Learner, estimator, float64 meta-parameters, and the tasks of several steps."""
    engine, train = {"dtype": "float64"}, {"tasks_per_step": NUM_TASKS}
    config = RunConfig.model_validate({"name": name, **PROBLEMS[name], "engine": engine, "train": train})
    source = build_source(config.tasks, config.seed, dtype_of(config))
    algorithm = build_algorithm(config, source.signature)
    meta = algorithm.learner.init(0)
    shards = [source.episodes(source.specs("train", step, NUM_TASKS)) for step in range(NUM_CALLS)]
    return algorithm.learner, algorithm.estimator, meta, shards


def scaled(meta: Params, step: int) -> Params:
    """Other meta-parameters in every call."""
    return {name: tensor * (1.0 + 0.1 * step) for name, tensor in meta.items()}


def assert_agrees(name: str, strategy: str, dtype: torch.dtype, lanes: int = 1, memory: str = "unrolled") -> None:
    """All updates are compared after the last one, so that a later call cannot have changed an earlier result."""
    learner, estimator, meta, shards = make(name)
    config = EngineConfig.model_validate({"strategy": strategy, "chunk": 2, "memory": memory})
    engine = Engine(learner, estimator, config, lanes)
    updates = [
        engine.update(
            {name: tensor.to("cuda", dtype) for name, tensor in scaled(meta, step).items()},
            as_type(shard, dtype).map(lambda tensor: tensor.to("cuda")),
        )
        for step, shard in enumerate(shards)
    ]
    engine.close()
    reference = Engine(learner, estimator, LOOP)
    for step, (shard, update) in enumerate(zip(shards, updates, strict=True)):
        expected = reference.update(scaled(meta, step), shard)
        assert all(tensor.is_cuda and tensor.dtype == dtype for tensor in update.grad.values())
        grad = {name: tensor.cpu().double() for name, tensor in update.grad.items()}
        assert relative_error(grad, expected.grad) < TOLERANCES[dtype]
        assert update.metrics == pytest.approx(expected.metrics, rel=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_strategies_agree_with_the_loop_on_the_cpu(name: str, strategy: str, dtype: torch.dtype) -> None:
    assert_agrees(name, strategy, dtype)


@pytest.mark.parametrize("memory", ["unrolled", "flat"])
@pytest.mark.parametrize("strategy", ["compiled", "compiled_vmap"])
def test_graphs_of_single_operations_agree_too(strategy: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MAX_OPERATIONS_OF_ONE_GRAPH", -1)
    assert_agrees("sine", strategy, torch.float64, memory=memory)


def test_lanes_wait_for_each_other_on_a_graph() -> None:
    assert_agrees("sine", "compiled", torch.float64, lanes=2)
