"""2D navigation (Finn et al. 2017, arXiv 1703.03400, section 5.3): find a goal in the plane by the rewards alone.

    x_0 = (0, 0),   x_{t+1} = x_t + speed * clip(a_t, -1, 1)
    r_t = -|x_{t+1} - goal|,   end where |x_{t+1} - goal| < radius

The goal is uniform in a square; policies see x. As in the authors' code (rllab, whose environments are normalised),
actions are in units of the largest move, and the reward is minus the distance, where the paper says minus its square
(`reward: squared`).

Deviation: the code ends a trajectory where both coordinates are within 0.01 of the goal's; the paper, and this, where
the distance is below 0.01.

Shapes: T tasks, N trajectories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.interaction import NavigationTasks
from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch, Params
from distmeta.tasks.base import TaskSource
from distmeta.tasks.interaction import Outcome, Rollouts, Simulator
from distmeta.tasks.trials import in_trials


class Navigation(Simulator):
    """Points in the plane: `position` and `goal` [T, N, 2]."""

    action_size = 2

    def __init__(self, config: NavigationTasks) -> None:
        self.horizon = config.horizon
        self._speed, self._radius, self._is_squared = config.speed, config.radius, config.reward == "squared"

    @override
    def start(self, rows: Batch, draws: Tensor) -> Params:
        return {"position": rows.inputs, "goal": rows["goals"]}

    @override
    def observe(self, state: Params) -> Tensor:
        return state["position"]

    @override
    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        position = state["position"] + self._speed * actions.clamp(-1, 1)
        squared = (position - state["goal"]).square().sum(-1)
        distance = squared.sqrt()
        rewards = -squared if self._is_squared else -distance
        return Outcome({**state, "position": position}, rewards, distance < self._radius)


class NavigationSource(TaskSource):
    """One goal per task. A role's rows are points at the origin: inputs [T, N, 2] and `goals` [T, N, 2].

    Args:
        config: Numbers of trajectories, and the environment.
        seed: The run's seed.
        dtype: Type of all numbers.
    """

    input_shape: tuple[int, ...] = (2,)
    num_outputs = 4
    train_outputs = MappingProxyType({SUPPORT: 4, QUERY: 4})
    objective = "policy_gradient"

    def __init__(self, config: NavigationTasks, seed: int, dtype: torch.dtype) -> None:
        simulator, self.input_shape = in_trials(Navigation(config), self.input_shape, config.episodes)
        self.seed, self.supply, self.in_order = seed, Rollouts(simulator), config.episodes is not None
        self._config, self._dtype = config, dtype

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        config = self._config
        low, high = config.goals
        goals = torch.from_numpy(low + (high - low) * seeding.uniform(seeds, "goal", 2)).to(self._dtype)
        counts = {SUPPORT: config.shots, QUERY: config.queries if split == "train" else config.eval_queries}
        return {role: self._rows(goals, counts[role]) for role in roles}

    def _rows(self, goals: Tensor, count: int) -> Batch:
        goals = goals[:, None].expand(-1, count, -1).contiguous()
        return Batch(torch.zeros_like(goals), goals=goals)
