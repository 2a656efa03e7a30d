"""The policy gradient as an objective: a function of recorded trajectories whose derivatives of every order are right.

    loss = -1 / (N H) sum_{n, t}  r_t + [ f(v_t) - f(v_t - w_t) ] A_t         f(x) = exp(x), which is 1 at x = 0
    w_t  = log pi(a_t | s_t) - log pi_recorded(a_t | s_t)                     0 where the trajectories were collected
    v_t  = w_t + dependence * v_{t-1}

This is loaded DiCE (Farquhar, Whiteson & Foerster 2019, arXiv 1909.10549, eq. 11; DiCE: Foerster et al. 2018, arXiv
1802.05098) with the recorded log-probability in place of a stopped gradient. Its value is minus the mean reward of a
step. At the parameters that collected the trajectories its first derivative is the policy gradient, and the second one,
with `dependence` 1, an unbiased estimate of the Hessian of the expected loss: how the trajectories depend on the
parameters is in v_t. With `dependence` 0 the bracket is pi / pi_recorded - 1, the low-variance curvature of ProMP
(Rothfuss et al. 2019, arXiv 1810.06784). At other parameters it weighs by importance. A `clip` c makes the bracket

    min( e^{w_t} A_t, clip(e^{w_t}, 1 - c, 1 + c) A_t ) - A_t       PPO, Schulman et al. 2017, arXiv 1707.06347, eq. 7

    A_t = sum_l (discount * gae)^l delta_{t+l},   delta_t = r_t + discount * b_{t+1} - b_t
    b   = least squares of the discounted returns on (s, s^2, t/100, (t/100)^2, (t/100)^3, 1)

A is GAE (Schulman et al. 2016, arXiv 1506.02438, eq. 16), b the linear baseline of Duan et al. 2016 (arXiv 1604.06778).
The baseline is fitted to the trajectories that it is subtracted from, as in the code of MAML. That and normalised
advantages are biased by O(1 / N). The last step of a trajectory is taken for its end, since the features know the time.

Shapes: N trajectories, H steps, F features of the baseline.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distmeta.config.interaction import PolicyGradientConfig
from distmeta.core.errors import UserError
from distmeta.core.policies import log_prob
from distmeta.core.types import EPISODES, Batch

_RIDGE = 1e-5
"""Added to the diagonal of the baseline's normal equations, as in rllab."""
_LARGEST = 10.0
"""Observations are clipped to this for the baseline, as in rllab."""
_EPS = 1e-8


class PolicyGradient:
    """An objective: call it with the network and trajectories (`distmeta.tasks.interaction.Rollouts`).

    It reports the sum of the rewards of a trajectory (`return`) and the number of its steps (`length`), means over the
    trajectories; of trials, those of an episode, and the `return_1`, ... of each episode.

    Args:
        config: Discount, baseline, advantages, order of what is known of the trajectories.
    """

    def __init__(self, config: PolicyGradientConfig) -> None:
        self._config = config

    def __call__(self, forward: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if "log_probs" not in batch:
            what = "the examples are no trajectories, which only interactive tasks have"
            raise UserError(what, where="objective 'policy_gradient'", allowed="tasks.source 'navigation'")
        rewards, mask = batch["rewards"], batch["mask"]
        outputs = forward(in_order(batch)).reshape(*rewards.shape, -1)
        ratios = (log_prob(outputs, batch["actions"]) - batch["log_probs"]) * mask
        before = powers(rewards, self._config.dependence).tril(-1)
        past = ratios @ before.T
        weights = advantages(self._config, batch)
        surrogate = ((past + ratios).exp() - past.exp()) * weights
        if (clip := self._config.clip) is not None:
            surrogate = torch.minimum(surrogate, (ratios.exp().clamp(1 - clip, 1 + clip) - 1) * weights)
        loss = -(rewards + surrogate).sum() / rewards.numel()
        return loss, _reported(batch)


def in_order(batch: Batch, axis: int = 0) -> Tensor:
    """What a policy reads of trajectories: whole trials [.., N, H, ...], or single steps [.., N H, ...].

    Args:
        batch: The trajectories.
        axis: The axis N.
    """
    return batch.inputs if EPISODES in batch else batch.inputs.flatten(axis, axis + 1)


def _reported(batch: Batch) -> dict[str, Tensor]:
    """`return` and `length` of a trajectory; of trials, those of an episode, and the `return_1`, ... of each."""
    rewards, mask = batch["rewards"], batch["mask"]
    if EPISODES not in batch:
        return {"return": rewards.sum(-1).mean(), "length": mask.sum(-1).mean()}
    returns = (rewards.unsqueeze(-1) * batch[EPISODES]).sum(1).mean(0)
    each = {f"return_{number}": value for number, value in enumerate(returns.unbind(), start=1)}
    return {"return": returns.mean(), "length": mask.sum(-1).mean() / len(returns), **each}


def advantages(config: PolicyGradientConfig, batch: Batch) -> Tensor:
    """Advantages [N, H] of the actions of trajectories, 0 behind their ends: a function of what was recorded."""
    rewards, mask = batch["rewards"].detach(), batch["mask"]
    if config.baseline == "linear":
        values = linear_baseline(batch.inputs, rewards @ powers(rewards, config.discount), mask)
        following = torch.cat((values[:, 1:], torch.zeros_like(values[:, :1])), 1)
        rewards = rewards + config.discount * following - values
    found = rewards @ powers(rewards, config.discount * config.gae) * mask
    if not config.normalise:
        return found
    count = mask.sum()
    mean = found.sum() / count
    deviation = (((found - mean) * mask).square().sum() / count).sqrt()
    return (found - mean) * mask / (deviation + _EPS)


def linear_baseline(observations: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Values [N, H] by least squares on the steps of all trajectories, 0 behind their ends.

    Args:
        observations: [N, H, ...].
        returns: [N, H].
        mask: [N, H].
    """
    # The powers of the time are nearly dependent: in float32 the solution would be noise.
    x = observations.detach().flatten(2).double().clamp(-_LARGEST, _LARGEST)
    time = torch.arange(mask.shape[1], device=x.device, dtype=x.dtype)[:, None].expand(*mask.shape, 1) / 100
    features = torch.cat((x, x.square(), time, time**2, time**3, torch.ones_like(time)), -1) * mask.double()[..., None]
    rows = features.flatten(0, 1)
    ridge = _RIDGE * torch.eye(rows.shape[1], device=x.device, dtype=x.dtype)
    weights: Tensor = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ returns.double().flatten())
    return (features @ weights).to(returns.dtype)


def powers(like: Tensor, factor: float) -> Tensor:
    """[H, H] of factor^(t - u) at (t, u) for u <= t, 0 elsewhere: discounted sums as one product.

    `x @ powers` sums the steps from t on, `x @ powers.T` those up to t.

    Args:
        like: [N, H].
        factor: In [0, 1].
    """
    steps = torch.arange(like.shape[1], device=like.device)
    distance = (steps[:, None] - steps).clamp(min=0)
    return (torch.full_like(distance, factor, dtype=like.dtype) ** distance).tril()
