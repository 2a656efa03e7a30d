"""Families of methods that stand on the seams without a special case: a stub of each, small enough to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmeta import checkpoint as checkpoints
from distmeta.config import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.methods.estimators.base import Estimate, Estimator, Moment, TaskOps
from distmeta.methods.learners.base import Learner, Stage
from distmeta.models.random import mix_seed, uniform
from distmeta.tasks.base import TaskSource
from distmeta.training import train
from distmeta.training.result import TrainResult

pytestmark = pytest.mark.thorough  # whole runs

UNLABELLED = "unlabelled"
HERE = Path(__file__)


class Blobs(TaskSource):
    """Two blobs of points in the plane, around means that a task draws; some points come without labels."""

    input_shape, num_outputs, objective = (2,), 2, "cross_entropy"
    train_outputs: Mapping[str, int] = {SUPPORT: 2, QUERY: 2, UNLABELLED: 2}

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.seed, self._dtype = seed, dtype

    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> dict[str, Batch]:
        labels = torch.arange(6).remainder(2).expand(len(seeds), 6).clone()
        batches = {}
        for number, role in enumerate(roles):
            rngs = [torch.Generator().manual_seed(int(seed) % 2**40) for seed in seeds]
            means = torch.stack([torch.randn(2, 2, generator=rng) for rng in rngs])
            noise = torch.stack([torch.randn(number + 1, 6, 2, generator=rng)[-1] for rng in rngs])
            x = (means[torch.arange(len(seeds))[:, None], labels] + 0.3 * noise).to(self._dtype)
            batches[role] = Batch(x, None if role == UNLABELLED else labels)
        return batches


def config(folder: Path, algorithm: dict[str, Any], model: Any = None, **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "family",
            "tasks": {"source": "python", "target": f"{HERE}:Blobs"},
            "model": model or {"kind": "mlp", "hidden": [8]},
            "algorithm": algorithm,
            "outer": OuterConfig(optimizer="Adam", lr=0.02),
            "engine": EngineConfig(strategy="vmap"),
            "train": TrainConfig(steps=4, tasks_per_step=6),
            "runtime": RuntimeConfig(executor="local", shard_size=3),
            "evaluation": EvaluationConfig(every=0, final_tasks=4),
            "checkpoint": CheckpointConfig(path=str(folder), every=2),
            "tracking": TrackingConfig(kind="none", model=False),
            **sections,
        }
    )


def run(folder: Path, algorithm: dict[str, Any], model: Any = None, **sections: Any) -> TrainResult:
    return train(config(folder, algorithm, model, **sections), quiet=True)


def own(name: str, **options: Any) -> dict[str, Any]:
    return {"kind": "python", "target": f"{HERE}:{name}", "options": options}


class Implicit(Estimator):
    """The last step's Jacobian J, solved for: grad = sum_i (J')^i g, the Neumann series of an implicit gradient."""

    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        *_, last = ops.walk(meta, episodes)
        slopes = ops.score_grad(meta, last.state, episodes)
        step = ops.linearise(meta, episodes, last.state, ops.num_steps(episodes) - 1)
        grad, cotangent = dict(slopes.by_meta), slopes.by_state
        assert step.pullback is not None
        for _ in range(5):
            by_meta, cotangent = step.pullback(cotangent)
            grad |= {name: grad[name] + value if name in grad else value for name, value in by_meta.items()}
        return Estimate(grad, slopes.scores.metrics, slopes.scores.buffers, {})


def test_implicit(tmp_path: Path) -> None:
    phase = {"steps": 3, "lr": 0.1, "l2sp": 0.5}
    result = run(tmp_path, {"learner": {"kind": "gradient", "phases": [phase]}, "estimator": own("Implicit")})
    assert result.steps == 4


class Evolution(Estimator):
    """Antithetic evolution with a carry: each task adds up its perturbations, which come from its seed and version."""

    reads_moment = True

    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        assert moment.seeds is not None
        before = (moment.carry or {}).get("sum", torch.zeros(episodes.num_tasks))
        seeds, total, losses = mix_seed(moment.seeds, moment.version), dict[str, Tensor](), []
        for task in range(episodes.num_tasks):
            one = episodes.map(lambda tensor, task=task: tensor[task : task + 1])
            noise = {
                name: uniform(seeds[task], number, tuple(tensor.shape), tensor.dtype) - 0.5
                for number, (name, tensor) in enumerate(meta.items())
            }
            pair = []
            for sign in (1, -1):
                moved = {name: tensor + sign * 0.1 * noise[name] for name, tensor in meta.items()}
                *_, last = ops.walk(moved, one)
                pair.append(ops.score(moved, last.state, one).metrics["loss"][0])
            slope = (pair[0] - pair[1]) / 0.2
            total = {name: total.get(name, 0) + slope * value for name, value in noise.items()}
            losses.append((pair[0] + pair[1]) / 2)
        carry = {"sum": before + torch.stack(losses)}
        return Estimate(total, {"loss": torch.stack(losses), "age": carry["sum"].clone()}, {}, carry)


def test_evolution_keeps_its_state_through_steps_and_resuming(tmp_path: Path) -> None:
    algorithm = {"learner": {"kind": "gradient", "phases": [{"steps": 1, "lr": 0.1}]}, "estimator": own("Evolution")}
    whole = run(tmp_path / "whole", algorithm)
    run(tmp_path / "parts", algorithm, train=TrainConfig(steps=2, tasks_per_step=6))
    half = checkpoints.load(str(tmp_path / "parts" / "family")).state
    assert {name for name in half if name.startswith("carry/")} == {"carry/0/sum", "carry/1/sum"}
    assert train(config(tmp_path / "parts", algorithm), resume=True, quiet=True).digest == whole.digest
    end = checkpoints.load(whole.checkpoint).state
    assert bool((torch.as_tensor(end["carry/0/sum"]) > torch.as_tensor(half["carry/0/sum"])).all())


class Reader(Learner):
    """Reads the support set in order, with a recurrent cell: a black box without inner steps."""

    def init(self, seed: int) -> Params:
        rng = torch.Generator().manual_seed(seed)
        size, inputs = 6, self.backbone.num_features + 2
        cell = {"cell.in": torch.randn(size, inputs, generator=rng), "cell.hidden": torch.eye(size)}
        return self.backbone.init(seed) | cell | {"cell.out": torch.randn(2, size, generator=rng) / size}

    def start(self, net: Any, meta: Params, task: Episode) -> Tensor:
        targets = task.support.targets
        assert targets is not None
        x = torch.cat((net.features(meta, task.support.inputs), F.one_hot(targets, 2).float()), 1)
        hidden = torch.zeros_like(meta["cell.hidden"][0])
        for row in range(len(x)):
            hidden = torch.tanh(meta["cell.in"] @ x[row] + meta["cell.hidden"] @ hidden)
        return hidden

    def predict(
        self, net: Any, meta: Params, fast: Tensor, task: Episode, inputs: Tensor, *, head: str = "head"
    ) -> Tensor:
        return net(meta, inputs, head=head) + meta["cell.out"] @ fast


def test_recurrent(tmp_path: Path) -> None:
    assert run(tmp_path, {"learner": own("Reader")}).steps == 4


class Stream(Learner):
    """A stream of one row a step: only the head moves, by the last row (OML)."""

    def start(self, net: Any, meta: Params, task: Episode) -> Params:
        return {name: meta[name] for name in self.backbone.head_names("head")}

    def stages(self, rows: Mapping[str, int]) -> Sequence[Stage]:
        return [Stage(rows=(row,)) for row in range(rows[SUPPORT])]

    def advance(self, net: Any, meta: Params, fast: Params, batch: Batch, kind: int, scalars: Tensor) -> Params:
        features = net.features(meta, batch.inputs)

        def loss(fast: Params) -> Tensor:
            return F.cross_entropy(net.head(fast, features), batch["targets"])

        return {name: fast[name] - 0.1 * grad for name, grad in torch.func.grad(loss)(fast).items()}

    def predict(
        self, net: Any, meta: Params, fast: Params, task: Episode, inputs: Tensor, *, head: str = "head"
    ) -> Tensor:
        return net({**meta, **fast}, inputs, head=head)


def test_a_stream_of_one_row_a_step(tmp_path: Path) -> None:
    result = run(tmp_path, {"learner": own("Stream"), "terms": [{}, {"role": SUPPORT, "weight": 0.5}]})
    (loss,) = {score.points for score in result.scores if score.metric == "loss"}
    assert loss == (0, 1, 2, 3, 4, 5, 6)


def normed(input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_outputs))


def test_an_unlabelled_objective_over_running_statistics(tmp_path: Path) -> None:
    phase = {"role": UNLABELLED, "objective": "entropy", "groups": ["norm"], "steps": 2, "lr": 0.05}
    terms = [{"role": SUPPORT, "at": "meta"}, {"role": QUERY, "weight": 0.1}]
    algorithm = {"learner": {"kind": "gradient", "phases": [phase]}, "terms": terms}
    result = run(tmp_path, algorithm, own("normed"))
    assert {score.protocol for score in result.scores} == {"inductive", "transductive"}
    buffers = checkpoints.load(str(tmp_path / "family")).buffers
    assert set(buffers) == {"1.running_mean", "1.running_var"}
    assert bool(buffers["1.running_mean"].any())


def adapted(input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """A frozen layer beside a low-rank one that starts from zero."""

    class Lora(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(input_shape[0], 8).requires_grad_(False)
            self.down, self.up = nn.Linear(input_shape[0], 2, bias=False), nn.Linear(2, 8, bias=False)
            nn.init.zeros_(self.up.weight)
            self.head = nn.Linear(8, num_outputs)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.frozen(x) + self.up(self.down(x))))  # type: ignore[no-any-return]

    return Lora()


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_adapters_over_frozen_weights(strategy: str, tmp_path: Path) -> None:
    phase = {"groups": ["up", "down", "head"], "steps": 2, "lr": 0.1}
    algorithm = {"learner": {"kind": "gradient", "phases": [phase]}}
    result = run(tmp_path, algorithm, own("adapted"), engine=EngineConfig.model_validate({"strategy": strategy}))
    params = checkpoints.load(result.checkpoint).params
    assert set(params) == {"down.weight", "up.weight", "head.weight", "head.bias"}
    assert bool(params["up.weight"].any())
