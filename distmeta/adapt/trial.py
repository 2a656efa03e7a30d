"""A trained policy with a memory in an environment of one's own: it adapts by what it remembers.

Shapes: F numbers of an observation, A numbers of an action.

Example:
    >>> learner = distmeta.load("runs/rl_navigation_rl2", which="best")
    >>> trial = learner.begin_trial(environment)      # `reset` and `step` as in gymnasium
    >>> trial.episode(), trial.episode()              # return of the first and of the second episode
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmeta.adapt.inputs import to_numbers
from distmeta.adapt.policy import WHERE, Environment, actions_of
from distmeta.core.errors import UserError
from distmeta.core.policies import sample
from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.methods.learners.base import Learner
from distmeta.tasks.base import TaskSignature


class Trial:
    """Episodes of one policy in one environment. What it has seen of them is in its memory.

    `episode` runs a whole one. A loop of one's own calls `act` with each observation and then `receive` with what
    the environment gave for the action.

    Args:
        learner: Whose policy; it takes no inner steps.
        head: The head that acts.
        meta: Meta-parameters.
        environment: Where it acts.
        signature: What the policy sees, and its outputs.
        horizon: Most steps of an episode.
        dtype: Type of the numbers.
        seed: Of all random draws.

    Attributes:
        returns: Sums of the rewards of the episodes so far.
    """

    def __init__(
        self,
        learner: Learner,
        head: str,
        meta: Params,
        environment: Environment,
        signature: TaskSignature,
        horizon: int,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self._environment, self._horizon, self._dtype = environment, horizon, dtype
        self._num_actions = actions_of(environment, signature.num_outputs)
        self._size = signature.num_outputs // 2 if self._num_actions is None else self._num_actions
        self._observed = (signature.input_shape[0] - self._size - 2,)
        self._random = np.random.default_rng(seed)
        ops, rows = one_by_one(learner), Batch(torch.zeros(1, 1, *signature.input_shape, dtype=dtype))
        task = Episode({role: rows for role in learner.roles}, torch.tensor([seed]))
        self._act = ops.acting(meta, ops.adapt(meta, task), task, head)
        self._seen = torch.zeros(self._size + 2, dtype=dtype)
        self.returns: list[float] = []

    def episode(self, *, greedy: bool = False) -> float:
        """Run an episode; returns the sum of its rewards.

        Args:
            greedy: Take the means, or the likeliest actions, in place of draws.

        Raises:
            UserError: An observation or a reward is no finite number, or has another shape.
        """
        observation, _ = self._environment.reset(seed=int(self._random.integers(2**31)))
        total = 0.0
        for step in range(1, self._horizon + 1):
            action = self.act(observation, greedy=greedy)
            observation, reward, ended, cut, _ = self._environment.step(action)
            over = bool(ended or cut) or step == self._horizon
            self.receive(reward, over)
            total += float(reward)
            if over:
                break
        self.returns.append(total)
        return total

    def act(self, observation: npt.ArrayLike, *, greedy: bool = False) -> Any:
        """Choose an action [A], or its number. Each call is a step.

        Raises:
            UserError: The observation has another shape.
        """
        own = to_numbers([np.asarray(observation).ravel()], self._observed, self._dtype, "observations")[0]
        outputs = self._act(torch.cat((own, self._seen))[None, None])[0, 0]
        action = self._choose(outputs, greedy=greedy)
        taken = action if self._num_actions is None else torch.nn.functional.one_hot(action, self._size)
        self._seen[: self._size] = taken
        return action.numpy() if self._num_actions is None else int(action)

    def receive(self, reward: float, ended: bool) -> None:
        """What the environment gave for the last action.

        Args:
            reward: The reward.
            ended: Whether the episode is over.

        Raises:
            UserError: The reward is not finite.
        """
        if not np.isfinite(reward):
            raise UserError(f"a reward of {reward}", where=WHERE, allowed="finite rewards")
        self._seen[self._size :] = torch.tensor([float(reward), float(ended)], dtype=self._dtype)

    def _choose(self, outputs: Tensor, *, greedy: bool) -> Tensor:
        if self._num_actions is None:
            draws = np.zeros(self._size) if greedy else self._random.normal(size=self._size)
            return sample(outputs, torch.from_numpy(draws).to(outputs))
        return outputs.argmax() if greedy else sample(outputs, torch.tensor(self._random.random(), dtype=outputs.dtype))
