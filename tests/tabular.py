"""A Markov decision process whose trajectories can be enumerated, and its expected return in closed form.

Two states, seen as (1, 0) and (0, 1), two actions, HORIZON steps from state 0. Action a in state s leads to state 1
with probability TO_ONE[s, a] and is rewarded by REWARDS[s, a]. The policy is a table of logits: a network without
hidden layers.

Shapes: T tasks, N trajectories, H steps, S states, A actions.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import MlpConfig
from distmeta.core.policies import log_prob
from distmeta.core.seeding import mix
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.models import build_backbone
from distmeta.models.base import HEAD, Backbone
from distmeta.tasks.interaction import Outcome, Rollouts, Simulator

HORIZON = 3
TO_ONE = torch.tensor([[0.2, 0.7], [0.9, 0.4]], dtype=torch.float64)
REWARDS = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)


class Tabular(Simulator):
    """States are `state` int64 [T, N]; the rewards of the tasks are `rewards` [T, N, S, A] in their rows."""

    horizon, num_actions, num_draws = HORIZON, 2, 1

    @override
    def start(self, rows: Batch, draws: Tensor) -> Params:
        return {"state": torch.zeros(rows.inputs.shape[:2], dtype=torch.int64), "rewards": rows["rewards"]}

    @override
    def observe(self, state: Params) -> Tensor:
        return torch.nn.functional.one_hot(state["state"], 2).double()

    @override
    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        now = state["state"]
        following = (draws[..., 0] < TO_ONE[now, actions]).long()
        rewards = state["rewards"].flatten(2).gather(2, (2 * now + actions).unsqueeze(-1)).squeeze(-1)
        return Outcome({**state, "state": following}, rewards, torch.zeros_like(now, dtype=torch.bool))


def policy() -> Backbone:
    """A table of logits."""
    return build_backbone(MlpConfig(hidden=()), (2,), {HEAD: 2}, torch.float64)


def episodes(tasks: int, shots: int, queries: int, seed: int = 0) -> Episode:
    """T tasks with the same rewards and different seeds."""

    def rows(count: int) -> Batch:
        inputs = torch.zeros(tasks, count, 2, dtype=torch.float64)
        return Batch(inputs, rewards=REWARDS.expand(tasks, count, 2, 2).contiguous())

    seeds = torch.from_numpy(np.array([mix(seed, "tabular", i) for i in range(tasks)]))
    return Episode({SUPPORT: rows(shots), QUERY: rows(queries)}, seeds, supply=Rollouts(Tabular()))


def logits(params: Params) -> Tensor:
    """[S, A]."""
    return params["head.weight"].T + params["head.bias"]


def trajectories(params: Params) -> tuple[Batch, Tensor]:
    """Every trajectory once, as a batch, and the probabilities [N] of what follows from the environment alone."""
    found, chances = [], []
    for actions in itertools.product(range(2), repeat=HORIZON):
        for moves in itertools.product(range(2), repeat=HORIZON - 1):
            states, chance = [0, *moves], 1.0
            for t, following in enumerate(moves):
                to_one = float(TO_ONE[states[t], actions[t]])
                chance *= to_one if following else 1 - to_one
            found.append((states, actions))
            chances.append(chance)
    states, actions = (torch.tensor(each) for each in zip(*found, strict=True))
    inputs = torch.nn.functional.one_hot(states, 2).double()
    log_probs = log_prob(logits(params)[states], actions).detach()
    batch = Batch(
        inputs,
        actions=actions,
        rewards=REWARDS[states, actions],
        mask=torch.ones_like(log_probs),
        log_probs=log_probs,
    )
    return batch, torch.tensor(chances, dtype=torch.float64)


def exact_loss(params: Params) -> Tensor:
    """Minus the expected mean reward of a step, by dynamic programming; differentiable to any order."""
    probs = logits(params).softmax(-1)
    occupied = torch.tensor([1.0, 0.0], dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(HORIZON):
        joint = occupied[:, None] * probs
        total = total + (joint * REWARDS).sum()
        one = (joint * TO_ONE).sum()
        occupied = torch.stack((1 - one, one))
    return -total / HORIZON
