"""Adapt a trained policy in an environment of one's own.

Shapes: N trajectories, H steps, K inner steps, A numbers of an action, O outputs of the network.

Example:
    >>> learner = distmeta.load("runs/rl_navigation_maml", which="best")
    >>> policy = learner.adapt_policy(environment)      # `reset` and `step` as in gymnasium
    >>> action = policy(observation)
    >>> policy.returns.mean(1)                          # of the trajectories before each inner step
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from distmeta.adapt.inputs import to_numbers
from distmeta.config import RunConfig
from distmeta.core import seeding
from distmeta.core.errors import UserError
from distmeta.core.policies import log_prob, sample
from distmeta.core.types import Act, Batch, Episode, Params, Supply
from distmeta.engine.engine import one_by_one
from distmeta.methods.learners.base import Learner
from distmeta.tasks.base import TaskSignature

Array = npt.NDArray[Any]
WHERE = "environment"


class Environment(Protocol):
    """What is asked of an environment: the interface of gymnasium."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:
        """Begin a trajectory: its first observation, and anything."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        """Observation, reward, whether the trajectory has ended and whether it is cut here, and anything."""


def size_of(config: RunConfig, name: str, field: str, given: int | None) -> int:
    """A number that is given, or that of the run's tasks.

    Raises:
        UserError: It is below 1, or neither is there.
    """
    number: int | None = getattr(config.tasks, field, None) if given is None else given
    if number is None or number < 1:
        raise UserError("none is given" if number is None else str(number), where=name, allowed="1 or more")
    return number


def actions_of(environment: Environment, outputs: int) -> int | None:
    """Number of the environment's discrete actions, by `action_space.n`; None: actions are vectors of numbers.

    Raises:
        UserError: It has other actions than a policy with so many outputs.
    """
    space, size = getattr(environment, "action_space", None), outputs // 2
    count: int | None = getattr(space, "n", None)
    if count is not None and count != outputs:
        raise UserError(f"{count} discrete actions", where=WHERE, allowed=str(outputs))
    if count is None and (getattr(space, "shape", (size,)) != (size,) or outputs % 2):
        raise UserError(f"actions of shape {list(getattr(space, 'shape', ()))}", where=WHERE, allowed=f"[{size}]")
    return count


class EnvironmentRollouts(Supply):
    """Collects trajectories in one environment, one after the other, as `Rollouts` does in many at once.

    Its random draws are those of `Rollouts`: of a task with this seed, in the same environment, it collects the same.

    Args:
        environment: Where the policy acts.
        signature: Observations and outputs of the policy.
        horizon: H, most steps of a trajectory.
        dtype: Type of the numbers.

    Attributes:
        returns: [N] of the trajectories of each time it was asked.
        num_actions: Discrete actions, by the environment's `action_space.n`; None: actions are vectors of A numbers.

    Raises:
        UserError: The environment has other actions than the policy.
    """

    def __init__(self, environment: Environment, signature: TaskSignature, horizon: int, dtype: torch.dtype) -> None:
        self._environment, self._shape, self._horizon, self._dtype = environment, signature.input_shape, horizon, dtype
        self.returns: list[Array] = []
        self.num_actions, self.action_size = actions_of(environment, signature.num_outputs), signature.num_outputs // 2

    def rows(self, trajectories: int) -> Batch:
        """A row for each of N trajectories, with nothing in it: the environment is where they come from."""
        return Batch(torch.zeros(1, trajectories, *self._shape, dtype=self._dtype))

    def is_single(self, observations: npt.ArrayLike) -> bool:
        """Whether it is one observation, not several."""
        return np.ndim(observations) == len(self._shape)

    def observations(self, values: object) -> Tensor:
        """Observations [B, *input_shape].

        Raises:
            UserError: They have another shape, or hold something else than numbers.
        """
        return to_numbers(values, self._shape, self._dtype, "observations")

    @override
    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        assert tasks.seeds is not None, "a seed is given"
        count, seeds, stream = tasks[role].inputs.shape[1], tasks.seeds.numpy(), f"{role}/{k}"
        starts = (seeding.bits(seeds, f"reset/{stream}", count)[0] >> np.uint64(33)).tolist()
        size = 1 if self.num_actions is not None else self.action_size
        draw = seeding.normal if self.num_actions is None else seeding.uniform
        draws = torch.from_numpy(draw(seeds, f"policy/{stream}", self._horizon * count * size))
        draws = draws.reshape(self._horizon, count, size)
        found = [self._trajectory(act, start, draws[:, n]) for n, start in enumerate(starts)]
        self.returns.append(np.array([float(each["rewards"].sum()) for each in found]))
        return Batch(**{name: torch.stack([each[name] for each in found])[None] for name in found[0]})

    def _trajectory(self, act: Act, start: int, draws: Tensor) -> Params:
        """`inputs` [H, ...], `actions`, `rewards`, `mask` and `log_probs`; zeros behind the end."""
        observation = self.observations([self._environment.reset(seed=start)[0]])[0]
        steps: list[tuple[Tensor, ...]] = []
        for draw in draws:
            outputs = act(observation[None, None])[0, 0]
            action = sample(outputs, draw[0] if self.num_actions is not None else draw.to(outputs))
            after, reward, ended, cut, _ = self._environment.step(action.numpy() if action.dim() else int(action))
            value = to_numbers([reward], (), self._dtype, "rewards")[0]
            if not value.isfinite():
                raise UserError(f"a reward of {float(value)}", where=WHERE, allowed="finite rewards")
            steps.append((observation, action, value, torch.ones_like(value), log_prob(outputs, action)))
            if ended or cut:
                break
            observation = self.observations([after])[0]
        names = ("inputs", "actions", "rewards", "mask", "log_probs")
        stacked = (torch.stack(each) for each in zip(*steps, strict=True))
        missing = self._horizon - len(steps)
        return {
            name: torch.cat((each, each.new_zeros(missing, *each.shape[1:])))
            for name, each in zip(names, stacked, strict=True)
        }


class AdaptedPolicy:
    """A policy that was adapted in an environment. Call it with an observation, or with several at once.

    Attributes:
        returns: [K, N] sums of the rewards of the trajectories before each inner step.

    Args:
        learner: How it is adapted.
        head: The head that acts.
        meta: Meta-parameters.
        trials: Where.
        trajectories: N.
        seed: Of all random draws.
    """

    def __init__(
        self, learner: Learner, head: str, meta: Params, trials: EnvironmentRollouts, trajectories: int, seed: int
    ) -> None:
        self._ops, self._head, self._meta, self._trials = one_by_one(learner), head, meta, trials
        self._random = np.random.default_rng(seed)
        rows = trials.rows(trajectories)
        self._task = Episode({role: rows for role in learner.roles}, torch.tensor([seed]), supply=trials)
        self._state = self._ops.adapt(meta, self._task)
        self.returns: npt.NDArray[np.float64] = np.array(trials.returns).reshape(-1, trajectories)

    def __call__(self, observation: npt.ArrayLike, *, greedy: bool = False) -> Any:
        """Choose an action.

        Args:
            observation: [*input_shape], or [B, *input_shape].
            greedy: Take the mean, or the likeliest action, in place of a draw.

        Returns:
            An action [A] or its number, or [B, A] or [B] for several.

        Raises:
            UserError: The observation has another shape.
        """
        single = self._trials.is_single(observation)
        outputs = self.outputs(self._trials.observations([observation] if single else observation))
        if self._trials.num_actions is None:
            draws = np.zeros((len(outputs), self._trials.action_size))
            actions = sample(outputs, torch.from_numpy(draws if greedy else self._random.normal(size=draws.shape)))
        elif greedy:
            actions = outputs.argmax(-1)
        else:
            actions = sample(outputs, torch.from_numpy(self._random.random(len(outputs))))
        found = actions.to(outputs.dtype if actions.is_floating_point() else actions.dtype).numpy()
        if not single:
            return found
        return found[0] if self._trials.num_actions is None else int(found[0])

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs [B, O] of the network for observations [B, *input_shape]."""
        return self._ops.act(self._meta, self._state, self._task, inputs[None], self._head)[0]
