"""HalfCheetah that is to run forward or backward, or at a speed (Finn et al. 2017, arXiv 1703.03400, section 5.3).

    direction   r_t = d (x_{t+1} - x_t) / 0.05 - control_cost |a_t|^2               d = 1 or -1, equally likely
    velocity    r_t = -|(x_{t+1} - x_t) / 0.05 - v| - control_cost |a_t|^2          v uniform in `speeds`, m/s

x is the position of the torso in m, and a step takes 0.05 s (five of MuJoCo's). Actions are clipped to [-1, 1], in the
reward too, and policies see 17 numbers: the positions but for x, and the velocities. The model is that of gymnasium
(`half_cheetah.xml`, as in HalfCheetah-v5); speeds from 0 to 3 are those of the authors' code, where the paper says 2.

A step is a function of the physical state alone: the solver of contacts starts anew in each step of 0.05 s, where
gymnasium's goes on from the step before. Put into the same state, both make the same step to 12 digits.

Shapes: T tasks, N trajectories, Q positions, V velocities.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.interaction import CheetahTasks
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch, Params
from distmeta.tasks.base import TaskSource
from distmeta.tasks.interaction import Outcome, Rollouts, Simulator
from distmeta.tasks.trials import in_trials

_LOG = logging.getLogger(__name__)
FRAMES = 5
"""Steps of MuJoCo, 0.01 s each, in a step."""
STEP_S = 0.05
NUM_POSITIONS = NUM_VELOCITIES = 9
NUM_ACTIONS = 6


class _Physics(threading.local):
    """MuJoCo in one thread: its working memory is not shared.

    Args:
        path: The model.
    """

    def __init__(self, path: str) -> None:
        import mujoco
        from mujoco import rollout

        mujoco.set_mju_user_warning(_warn)
        self._model: Any = mujoco.MjModel.from_xml_path(path)
        self._data, self._rollout = mujoco.MjData(self._model), rollout.Rollout(nthread=0)
        self.start = torch.from_numpy(self._data.qpos.copy())

    def step(self, state: Tensor, controls: Tensor) -> Tensor:
        """The states [B, 1 + Q + V] (time, positions, velocities) after FRAMES steps with the same controls [B, A]."""
        repeated = controls[:, None].expand(-1, FRAMES, -1).contiguous().numpy()
        states, _ = self._rollout.rollout(self._model, self._data, state.contiguous().numpy(), repeated)
        return torch.from_numpy(states[:, -1].copy())


class Cheetah(Simulator):
    """States are `physics` float64 [T, N, 1 + Q + V] and the `goal` [T, N] of the rows.

    Args:
        config: Goal, horizon and noise.

    Raises:
        UserError: MuJoCo or gymnasium is not installed.
    """

    action_size = NUM_ACTIONS
    num_start_draws = NUM_POSITIONS + 2 * NUM_VELOCITIES

    def __init__(self, config: CheetahTasks) -> None:
        self.horizon, self._config = config.horizon, config
        self._physics = _Physics(_model_path())

    @override
    def start(self, rows: Batch, draws: Tensor) -> Params:
        sizes = [NUM_POSITIONS, NUM_VELOCITIES, NUM_VELOCITIES]
        uniform, first, second = torch.split(draws.cpu(), sizes, -1)
        noise, normal = self._config.noise, (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)
        positions = self._physics.start + noise * (2 * uniform - 1)
        time = torch.zeros_like(positions[..., :1])
        return {"physics": torch.cat((time, positions, noise * normal), -1), "goal": rows["goals"][..., 0]}

    @override
    def observe(self, state: Params) -> Tensor:
        return state["physics"][..., 2:].to(state["goal"])

    @override
    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        before, actions = state["physics"], actions.clamp(-1, 1)
        after = self._physics.step(before.flatten(0, 1), actions.double().cpu().flatten(0, 1)).reshape(before.shape)
        speed = ((after[..., 1] - before[..., 1]) / STEP_S).to(actions)
        goal = state["goal"]
        reached = goal * speed if self._config.goal == "direction" else -(speed - goal).abs()
        rewards = reached - self._config.control_cost * actions.square().sum(-1)
        return Outcome({**state, "physics": after}, rewards, torch.zeros_like(rewards, dtype=torch.bool))


class CheetahSource(TaskSource):
    """One goal per task: `goals` [T, N, 1] of a role's rows. Their `inputs` [T, N, 17] are zeros, not observations.

    Args:
        config: Numbers of trajectories, and the environment.
        seed: The run's seed.
        dtype: Type of observations and rewards.

    Raises:
        UserError: MuJoCo or gymnasium is not installed.
    """

    input_shape: tuple[int, ...] = (NUM_POSITIONS - 1 + NUM_VELOCITIES,)
    num_outputs = 2 * NUM_ACTIONS
    train_outputs = MappingProxyType({SUPPORT: 2 * NUM_ACTIONS, QUERY: 2 * NUM_ACTIONS})
    objective = "policy_gradient"

    def __init__(self, config: CheetahTasks, seed: int, dtype: torch.dtype) -> None:
        simulator, self.input_shape = in_trials(Cheetah(config), self.input_shape, config.episodes)
        self.seed, self.supply, self.in_order = seed, Rollouts(simulator), config.episodes is not None
        self._config, self._dtype = config, dtype

    @override
    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        config, (low, high) = self._config, self._config.speeds
        drawn = torch.from_numpy(seeding.uniform(seeds, "goal", 1))
        goals = 1 - 2 * (drawn < 0.5).double() if config.goal == "direction" else low + (high - low) * drawn
        counts = {SUPPORT: config.shots, QUERY: config.queries if split == "train" else config.eval_queries}
        return {role: self._rows(goals.to(self._dtype), counts[role]) for role in roles}

    def _rows(self, goals: Tensor, count: int) -> Batch:
        goals = goals[:, None].expand(-1, count, -1).contiguous()
        return Batch(goals.new_zeros(*goals.shape[:2], *self.input_shape), goals=goals)


def _warn(message: str) -> None:
    """Take MuJoCo's warnings, which it would write to a file in the current folder."""
    if "deprecated" not in message:  # an attribute of gymnasium's model
        _LOG.warning("MuJoCo: %s", message)


def _model_path() -> str:
    """The model's file in gymnasium.

    Raises:
        UserError: MuJoCo or gymnasium is not installed.
    """
    for name in ("mujoco", "gymnasium"):
        if importlib.util.find_spec(name) is None:
            what = f"the package {name} is not installed"
            raise UserError(what, where="tasks.source", allowed="pip install distmeta[rl], or 'navigation'")
    found = importlib.util.find_spec("gymnasium")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml")
