"""Trajectories of a policy in many environments at once: what interactive tasks answer.

Environments are simulated for all tasks and trajectories together: a step is one call of the policies and one of the
simulator. Every random number is drawn before the first step, by hashing (seed of the task, role, inner step), so that
trajectories are a pure function of the task's seed and the parameters that act.

Shapes: T tasks, N trajectories of each, H steps, A numbers of an action, C discrete actions, O outputs of the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from distmeta.core import seeding
from distmeta.core.policies import log_prob, sample
from distmeta.core.types import Act, Batch, Episode, Params, Supply

Draw = Callable[[npt.NDArray[np.int64], str, int], npt.NDArray[np.float64]]
"""Seeds [T], the name of the draw, numbers for each -> [T, numbers]."""


class Outcome(NamedTuple):
    """What a step leads to.

    Attributes:
        state: The state after it.
        rewards: [T, N].
        ends: [T, N] whether the trajectory ends with the step.
    """

    state: Params
    rewards: Tensor
    ends: Tensor


class Simulator(ABC):
    """T x N environments at once. States are named tensors [T, N, ...]; all functions are pure.

    Attributes:
        horizon: H, most steps of a trajectory.
        num_actions: C; None: actions are vectors of `action_size` numbers.
        action_size: A.
        num_draws: Uniform numbers that a step takes.
        num_start_draws: Those that the start takes.
    """

    horizon: int
    num_actions: int | None = None
    action_size: int = 1
    num_draws: int = 0
    num_start_draws: int = 0

    @abstractmethod
    def start(self, rows: Batch, draws: Tensor) -> Params:
        """The states before the first step.

        Args:
            rows: The rows of a role, [T, N, ...] each: first observations, and what else the task source put there.
            draws: [T, N, `num_start_draws`] uniform numbers in [0, 1), float64.
        """

    @abstractmethod
    def observe(self, state: Params) -> Tensor:
        """What policies see of states: [T, N, ...]."""

    def marks(self, state: Params) -> Params:
        """What is recorded of a step besides what every step has, from the state before it: [T, N, ...] by name."""
        return {}

    @abstractmethod
    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        """Take a step.

        Args:
            state: The states before it.
            actions: [T, N, A], or int64 [T, N].
            draws: [T, N, `num_draws`] uniform numbers in [0, 1), float64.
        """


class Rollouts(Supply):
    """Collects trajectories: H steps, or fewer where they end earlier.

    A batch of trajectories has `inputs` [T, N, H, ...] (observations before each step), `actions` [T, N, H, A] or int64
    [T, N, H], `rewards`, `mask` and `log_probs` [T, N, H]: 1 for the steps before the end, and the logarithm of the
    probability of each action. Rewards behind the end are 0. Marks of the simulator stand beside them.

    Args:
        simulator: The environments.
    """

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    @override
    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        simulator, rows = self._simulator, tasks[role]
        start_draws, policy_draws, draws = self._draws(tasks, role, k)
        state = simulator.start(rows, start_draws)
        alive = torch.ones(rows.inputs.shape[:2], dtype=rows.inputs.dtype, device=rows.inputs.device)
        steps: list[Params] = []
        for t in range(simulator.horizon):
            observations, marks = simulator.observe(state), simulator.marks(state)
            outputs = act(observations)
            actions = sample(outputs, policy_draws[t])
            state, rewards, ends = simulator.step(state, actions, draws[t])
            step = {"inputs": observations, "actions": actions, "rewards": rewards * alive, "mask": alive}
            steps.append({**step, "log_probs": log_prob(outputs, actions), **marks})
            alive = alive * (~ends).to(alive.dtype)
        return Batch(**{name: torch.stack([step[name] for step in steps], 2) for name in steps[0]})

    def _draws(self, tasks: Episode, role: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of the start [T, N, `num_start_draws`], of the policies [H, T, N, A] or [H, T, N], and of the steps
        [H, T, N, `num_draws`].
        """
        assert tasks.seeds is not None, "interactive tasks draw from their seeds"
        simulator, like, seeds = self._simulator, tasks[role].inputs, tasks.seeds.cpu().numpy()
        (num_tasks, count), horizon, stream = like.shape[:2], simulator.horizon, f"{role}/{k}"

        def arranged(draw: Draw, name: str, steps: int, size: int) -> Tensor:
            values = torch.from_numpy(draw(seeds, f"{name}/{stream}", steps * count * size)).to(like.device)
            return values.reshape(num_tasks, steps, count, size).movedim(1, 0).contiguous()

        start = arranged(seeding.uniform, "start", 1, simulator.num_start_draws)[0]
        of_steps = arranged(seeding.uniform, "environment", horizon, simulator.num_draws)
        if simulator.num_actions is None:
            return start, arranged(seeding.normal, "policy", horizon, simulator.action_size).to(like), of_steps
        return start, arranged(seeding.uniform, "policy", horizon, 1)[..., 0], of_steps
