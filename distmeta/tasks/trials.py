"""Trials: several episodes of one task in a row, for policies that remember (RL2, Duan et al. 2016, arXiv 1611.02779;
Wang et al. 2016, arXiv 1611.05763).

    observation_t = (s_t, a_{t-1}, r_{t-1}, d_{t-1})      d: whether the episode ended with the step

Before the first step a, r and d are 0. An episode ends where the environment ends it or after its horizon; the next one
starts with the next step, whose observation still has the last action, reward and end. A trial ends with its last
episode. Discrete actions are seen one-hot.

Shapes: T tasks, N trials, E episodes, A numbers of an action.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from distmeta.core.tensors import below
from distmeta.core.types import EPISODES, Batch, Params
from distmeta.tasks.interaction import Outcome, Simulator

_NOW, _STARTS = "now/", "starts/"
"""Prefixes of the environments' states: [T, N, ...] now, and [T, N, E, ...] at the start of each episode."""


class Trials(Simulator):
    """E episodes of another simulator in a row.

    Args:
        simulator: The environments.
        episodes: E.

    Attributes:
        num_seen: Numbers of an observation besides the environment's own.
    """

    def __init__(self, simulator: Simulator, episodes: int) -> None:
        self._simulator, self._episodes = simulator, episodes
        self.horizon = episodes * simulator.horizon
        self.num_actions, self.action_size = simulator.num_actions, simulator.action_size
        self.num_draws, self.num_start_draws = simulator.num_draws, episodes * simulator.num_start_draws
        self._action_size = simulator.action_size if simulator.num_actions is None else simulator.num_actions
        self.num_seen = self._action_size + 2

    @override
    def start(self, rows: Batch, draws: Tensor) -> Params:
        each = draws.reshape(*draws.shape[:2], self._episodes, self._simulator.num_start_draws).unbind(2)
        starts = [self._simulator.start(rows, draws) for draws in each]
        zeros = rows.inputs.new_zeros(rows.inputs.shape[:2])
        return {
            **{_NOW + name: tensor for name, tensor in starts[0].items()},
            **{_STARTS + name: torch.stack([start[name] for start in starts], 2) for name in starts[0]},
            "episode": zeros.long(),
            "time": zeros.long(),
            "action": zeros.unsqueeze(-1).expand(*zeros.shape, self._action_size),
            "reward": zeros,
            "ended": zeros,
        }

    @override
    def observe(self, state: Params) -> Tensor:
        own = self._simulator.observe(below(state, _NOW)).flatten(2)
        seen = state["reward"].unsqueeze(-1), state["ended"].unsqueeze(-1)
        return torch.cat((own, state["action"].to(own), *(each.to(own) for each in seen)), -1)

    @override
    def marks(self, state: Params) -> Params:
        number = state["episode"].clamp(max=self._episodes - 1)
        of_environment = self._simulator.marks(below(state, _NOW))
        return {**of_environment, EPISODES: functional.one_hot(number, self._episodes).to(state["reward"].dtype)}

    @override
    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        outcome = self._simulator.step(below(state, _NOW), actions, draws)
        time = state["time"] + 1
        over = outcome.ends | (time >= self._simulator.horizon)
        episode = state["episode"] + over
        starts, number = below(state, _STARTS), episode.clamp(max=self._episodes - 1)
        now = {name: _where(over, _pick(starts[name], number), after) for name, after in outcome.state.items()}
        seen = actions if self.num_actions is None else functional.one_hot(actions, self.num_actions)
        after = {
            **{_NOW + name: tensor for name, tensor in now.items()},
            **{_STARTS + name: tensor for name, tensor in starts.items()},
            "episode": episode,
            "time": torch.where(over, 0, time),
            "action": seen,
            "reward": outcome.rewards,
            "ended": over.to(outcome.rewards.dtype),
        }
        return Outcome(after, outcome.rewards, episode >= self._episodes)


def in_trials(simulator: Simulator, shape: tuple[int, ...], episodes: int | None) -> tuple[Simulator, tuple[int, ...]]:
    """Trials of so many episodes, and the shape of what policies see in them; None: as they are.

    Args:
        simulator: The environments.
        shape: Shape of their own observations.
        episodes: E.
    """
    if episodes is None:
        return simulator, shape
    trials = Trials(simulator, episodes)
    return trials, (math.prod(shape) + trials.num_seen,)


def _pick(starts: Tensor, number: Tensor) -> Tensor:
    """[T, N, E, ...] -> [T, N, ...] at the number [T, N] of an episode."""
    index = number.to(starts.device).reshape(*number.shape, 1, *([1] * (starts.dim() - 3)))
    return starts.gather(2, index.expand(*number.shape, 1, *starts.shape[3:])).squeeze(2)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`torch.where` for a condition [T, N] and tensors [T, N, ...] on a device of their own."""
    return torch.where(condition.to(b.device).reshape(*condition.shape, *([1] * (b.dim() - 2))), a, b)
