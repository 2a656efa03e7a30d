"""HalfCheetah beside gymnasium's."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distmeta.config import CheetahTasks, PolicyConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Batch, Episode, Snapshot, Work
from distmeta.methods import maml_rl
from distmeta.program.program import MetaProgram
from distmeta.tasks import build_source
from distmeta.tasks import cheetah as module

needs_mujoco = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mujoco", "gymnasium")), reason="needs distmeta[rl]"
)


def config(**fields: Any) -> CheetahTasks:
    return CheetahTasks.model_validate({"shots": 2, "queries": 2, "eval_queries": 3, "horizon": 20, **fields})


def episode(settings: CheetahTasks, tasks: int = 3, dtype: torch.dtype = torch.float64) -> Episode:
    source = build_source(settings, 0, dtype)
    return source.episodes(source.specs("train", 0, tasks))


def swinging(observations: Tensor) -> Tensor:
    move = torch.sin(3 * observations[..., :6])
    return torch.cat((move, torch.full_like(move, -1.0)), -1)


def collect(tasks: Episode, k: int = 0) -> Batch:
    assert tasks.supply is not None
    return tasks.supply(tasks, "support", k, swinging)


@needs_mujoco
@pytest.mark.parametrize("goal", ["direction", "velocity"])
def test_trajectories_are_those_of_gymnasium(goal: str) -> None:
    tasks = episode(config(goal=goal))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half_cheetah = pytest.importorskip("gymnasium.envs.mujoco.half_cheetah_v5")
        environment = half_cheetah.HalfCheetahEnv()
    batch = collect(tasks)
    for task, trajectory in ((0, 0), (2, 1)):
        observations, actions, rewards = (
            batch[name][task, trajectory].numpy() for name in ("inputs", "actions", "rewards")
        )
        environment.reset(seed=0)
        environment.set_state(np.concatenate(([0.0], observations[0, :8])), observations[0, 8:])
        for t in range(20):
            seen, _, _, _, info = environment.step(actions[t].clip(-1, 1))
            cost, wanted = 0.05 * np.square(actions[t].clip(-1, 1)).sum(), float(tasks.support["goals"][task, 0, 0])
            speed = info["x_velocity"]
            expected = (wanted * speed if goal == "direction" else -abs(speed - wanted)) - cost
            assert rewards[t] == pytest.approx(expected, abs=1e-10)
            if t < 19:
                np.testing.assert_allclose(observations[t + 1], seen, rtol=0, atol=1e-10)
                environment.set_state(np.concatenate(([0.0], observations[t + 1, :8])), observations[t + 1, 8:])
    assert batch["mask"].all()


@needs_mujoco
def test_goals_are_directions_or_speeds() -> None:
    directions = episode(config(), tasks=200).query["goals"][:, 0, 0]
    assert set(directions.tolist()) == {-1.0, 1.0}
    assert abs(directions.mean()) < 0.2
    speeds = episode(config(goal="velocity"), tasks=200).query["goals"][:, 0, 0]
    assert 0 <= speeds.min() < 0.2
    assert 2.8 < speeds.max() <= 3


@needs_mujoco
def test_starts_are_spread_as_in_gymnasium() -> None:
    batch = collect(episode(config(shots=500, horizon=1), tasks=2))
    start = batch.inputs[:, :, 0].flatten(0, 1)
    assert start[:, :8].abs().max() <= 0.1
    torch.testing.assert_close(start[:, 8:].std(0), torch.full((9,), 0.1, dtype=torch.float64), rtol=0.1, atol=0)


@needs_mujoco
def test_trajectories_are_a_function_of_the_seed_whoever_is_beside() -> None:
    tasks = episode(config(), dtype=torch.float32)
    whole, again, part = collect(tasks), collect(tasks), collect(tasks.select([2]))
    assert whole.inputs.dtype == whole["rewards"].dtype == torch.float32
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name])
        torch.testing.assert_close(part[name], tensor[[2]])
    assert (collect(tasks, k=1).inputs != whole.inputs).any(-1).all()


@needs_mujoco
def test_a_run_learns_on_it() -> None:
    run = RunConfig.model_validate(
        {
            "name": "cheetah",
            "tasks": config(),
            "model": PolicyConfig(hidden=(8,)),
            "algorithm": maml_rl(),
            "engine": {"strategy": "loop"},
            "runtime": {"executor": "local", "threads_per_worker": 2},
        }
    )
    program = MetaProgram(run)
    snapshot = Snapshot(0, program.algorithm.learner.init(0))
    reports = [program.run(Work("update"), snapshot, program.source.shards("train", 0, 4, 4)[0]) for _ in range(2)]
    assert all(torch.equal(grad, reports[1].update.grad[name]) for name, grad in reports[0].update.grad.items())
    assert reports[0].update.metrics["length"] == 4 * 20
    program.close()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the package mujoco is not installed; allowed: pip install distmeta\[rl\]"):
        build_source(config(), 0, torch.float32)
