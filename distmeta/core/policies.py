"""Distributions over actions, from the outputs of a network.

    actions float [..., A]     independent normals: outputs [..., 2 A] are means, then logarithms of deviations
    actions int64 [...]        categories: outputs [..., C] are logits

The type of the actions says which.
"""

from __future__ import annotations

import math

from torch import Tensor

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def log_prob(outputs: Tensor, actions: Tensor) -> Tensor:
    """Logarithm [...] of the probability (density) of actions."""
    if not actions.is_floating_point():
        return outputs.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    mean, log_std = outputs.chunk(2, -1)
    return -(((actions - mean) * (-log_std).exp()).square() / 2 + log_std + HALF_LOG_2PI).sum(-1)


def kl_divergence(old: Tensor, new: Tensor, *, discrete: bool) -> Tensor:
    """KL(old || new) [...] of the distributions that two outputs [..., O] stand for."""
    if discrete:
        log_p, log_q = old.log_softmax(-1), new.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    (mean, log_std), (new_mean, new_log_std) = old.chunk(2, -1), new.chunk(2, -1)
    scaled = ((2 * log_std).exp() + (mean - new_mean).square()) * (-2 * new_log_std).exp()
    return (new_log_std - log_std + scaled / 2 - 0.5).sum(-1)


def sample(outputs: Tensor, draws: Tensor) -> Tensor:
    """Actions by draws that were made before.

    Args:
        outputs: [..., O].
        draws: Standard normal numbers [..., A], or uniform ones [...] for categories.

    Returns:
        Actions [..., A], or int64 [...].
    """
    if draws.dim() < outputs.dim():
        bounds = outputs.softmax(-1).cumsum(-1)[..., :-1]  # the last one, 1, may be rounded below a draw
        return (draws.unsqueeze(-1) >= bounds).sum(-1)
    mean, log_std = outputs.chunk(2, -1)
    return mean + log_std.exp() * draws
