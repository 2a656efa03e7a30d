"""Environment steps per second: trajectories of all tasks at once, and a loop over gymnasium environments.

    python -m benchmarks.engine.environments                     (needs gymnasium; with MuJoCo the cheetah as well)
    python -m benchmarks.engine.environments --tasks 40 --trajectories 20 --repeats 5 --out runs/bench

Either with the policy of the jobs, which acts on all environments in one call in both, or alone, with random actions.
The loop steps one environment after the other, as gymnasium's own vector of environments in one process does. One
thread; the best of some repeats.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.report import Report
from benchmarks.scripts import options
from distmeta.config import CheetahTasks, NavigationTasks, PolicyConfig
from distmeta.config.tasks import TasksConfig
from distmeta.core.policies import sample
from distmeta.core.types import QUERY, Act
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.models.network import Network
from distmeta.tasks import build_source

MakeAct = Callable[[int, int], Act]
"""Sizes of an observation and of the outputs -> what acts."""


def policy(observation_size: int, num_outputs: int) -> Act:
    """The jobs' policy, untrained."""
    backbone = build_backbone(PolicyConfig(hidden=(100, 100)), (observation_size,), {HEAD: num_outputs})
    params, net = backbone.init(0), Network(backbone)
    return lambda inputs: net(params, inputs.flatten(0, -2)).reshape(*inputs.shape[:-1], -1)


def idle(observation_size: int, num_outputs: int) -> Act:
    """Random actions: mean 0, deviation 1."""
    return lambda inputs: inputs.new_zeros(*inputs.shape[:-1], num_outputs)


def collected(config: TasksConfig, tasks: int, make_act: MakeAct) -> int:
    """Collect the query trajectories of some tasks; returns the number of steps."""
    source = build_source(config, 0, torch.float32)
    episode = source.episodes(source.specs("train", 0, tasks), (QUERY,))
    assert source.supply is not None
    with torch.no_grad():
        batch = source.supply(episode, QUERY, 0, make_act(source.input_shape[0], source.num_outputs))
    return int(batch["mask"].sum())


def _navigation() -> Any:
    """An environment of gymnasium that does what `distmeta.tasks.navigation` does."""
    import gymnasium

    class Navigation(gymnasium.Env):  # type: ignore[misc]
        def __init__(self) -> None:
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self._goal = self.np_random.uniform(-0.5, 0.5, 2).astype(np.float32)
            self._position = np.zeros(2, np.float32)
            return self._position, {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self._position = self._position + 0.1 * np.clip(action, -1, 1)
            distance = float(np.linalg.norm(self._position - self._goal))
            return self._position, -distance, distance < 0.01, False, {}

    return Navigation()


def looped(make: Callable[[], Any], count: int, horizon: int, make_act: MakeAct) -> int:
    """Step `count` environments of gymnasium one after the other; returns the number of steps."""
    environments = [make() for _ in range(count)]
    observations = np.stack([each.reset(seed=index)[0] for index, each in enumerate(environments)])
    act = make_act(observations.shape[1], 2 * environments[0].action_space.shape[0])
    alive, steps = np.ones(count, bool), 0
    for _ in range(horizon):
        with torch.no_grad():
            outputs = act(torch.from_numpy(observations).float())
            actions = sample(outputs, torch.randn(count, outputs.shape[1] // 2)).numpy()
        for index in np.flatnonzero(alive):
            observations[index], _, ends, _, _ = environments[index].step(actions[index])
            alive[index], steps = not ends, steps + 1
    return steps


def rate(run: Callable[[], int], repeats: int) -> float:
    """Steps per second, the best of some runs."""
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        rates.append(run() / (time.perf_counter() - started))
    return max(rates)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--trajectories", type=int, default=20, help="of each task")
    parser.add_argument("--repeats", type=int, default=3)
    args: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    report, count, results = Report("environments", args.out), args.tasks * args.trajectories, {}
    sources: list[tuple[str, NavigationTasks | CheetahTasks, Callable[[], Any]]] = [
        ("navigation", NavigationTasks(queries=args.trajectories), _navigation)
    ]
    if importlib.util.find_spec("mujoco") is not None:
        from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

        sources.append(("cheetah", CheetahTasks(queries=args.trajectories), HalfCheetahEnv))
    for name, config, make in sources:
        for what, act in (("alone", idle), ("with policy", policy)):
            at_once = rate(partial(collected, config, args.tasks, act), args.repeats)
            one_by_one = rate(partial(looped, make, count, config.horizon, act), args.repeats)
            results[f"{name}, {what}"] = {"at once": at_once, "loop": one_by_one}
    for name, rates in results.items():
        at_once, one_by_one = rates["at once"], rates["loop"]
        print(f"{name:24}{at_once:12,.0f} steps/s, {at_once / one_by_one:.1f} times a loop ({one_by_one:,.0f})")
    report.write(trajectories=count, steps_per_s=results)


if __name__ == "__main__":
    main()
