"""Directions of inner steps: SGD with momentum, Adam, weight decay; and rates by relative gradient norms.

    g        = gradient + weight_decay * p
    sgd      m <- momentum * m + g,   direction = m               m = 0 before the phase (heavy ball, as in torch)
    adam     Kingma & Ba 2015, moments are 0 before the phase

Auto-RGN (Lee et al. 2023, arXiv 2210.11466, section 4) multiplies the rate of layer l by

    r_l / max_j r_j,    r_l = |gradient_l| / |p_l|

at the first step of each epoch, by the examples of that step; in between, the factors stay. A layer is a weight with
its bias. A layer of zeros (a fresh head) has the largest r of all, so that it moves alone in the first epoch. The outer
gradient takes the factors as constants.

Deviations from the code of Auto-RGN, which averages r over five mini-batches, leaves batch norm out, has an r for
weight and bias each, and begins with new moments in each epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distmeta.config import Phase
from distmeta.core.types import Params

ADAM_EPSILON = 1e-8
TINY = 1e-12
"""Norms are taken to be this large at least."""


def step_scalars(phase: Phase, step: int) -> tuple[float, ...]:
    """What a step of a phase does differently from others: 0 at the first one, else 1, and Adam's bias corrections;
    nothing where no moments are kept.
    """
    if phase.optimizer == "adam":
        return (float(step > 0), 1 - phase.beta1 ** (step + 1), 1 - phase.beta2 ** (step + 1))
    return (float(step > 0),) if phase.momentum else ()


def num_scalars(phase: Phase) -> int:
    """How many these are."""
    return len(step_scalars(phase, 0))


def descend(
    phase: Phase, moving: Params, gradient: Params, first: Params, second: Params, scalars: Tensor
) -> tuple[Params, Params, Params]:
    """The direction of a step, which the rates multiply, and the moments after it.

    Args:
        phase: The optimizer's settings.
        moving: The parameters that the step moves.
        gradient: Of what the phase minimises, by these.
        first: First moments: of Adam, or momentum; others than those of `moving` are kept.
        second: Adam's second moments.
        scalars: [S] of `step_scalars`, and possibly others behind them.
    """
    if phase.weight_decay:
        gradient = {name: g + phase.weight_decay * moving[name] for name, g in gradient.items()}
    if phase.optimizer == "adam":
        return _adam(phase, gradient, first, second, scalars)
    if not phase.momentum:
        return gradient, first, second
    m = {name: phase.momentum * scalars[0] * first[name] + g for name, g in gradient.items()}
    return m, {**first, **m}, second


def _adam(
    phase: Phase, gradient: Params, first: Params, second: Params, scalars: Tensor
) -> tuple[Params, Params, Params]:
    b1, b2 = phase.beta1, phase.beta2
    not_first, correction1, correction2 = scalars[:3]
    m = {name: b1 * not_first * first[name] + (1 - b1) * g for name, g in gradient.items()}
    v = {name: b2 * not_first * second[name] + (1 - b2) * g * g for name, g in gradient.items()}
    # The epsilon under the root keeps its derivative finite where a gradient is exactly zero (a dead ReLU).
    direction = {
        name: (m[name] / correction1) / ((v[name] / correction2 + ADAM_EPSILON**2).sqrt() + ADAM_EPSILON)
        for name in gradient
    }
    return direction, {**first, **m}, {**second, **v}


def relative_gradients(moving: Params, gradient: Params) -> Params:
    """The factor [] of each parameter's rate, from 0 to 1 (Auto-RGN).

    Args:
        moving: The parameters that a step moves.
        gradient: Of what the phase minimises, by these.
    """
    layers = {name: name.rpartition(".")[0] or name for name in moving}
    ratios: Params = {}
    for layer in dict.fromkeys(layers.values()):
        names = [name for name in moving if layers[name] == layer]
        of_gradient, of_layer = (_norm([each[name].detach() for name in names]) for each in (gradient, moving))
        ratios[layer] = of_gradient / of_layer.clamp(min=TINY)
    largest = torch.stack(list(ratios.values())).amax().clamp(min=TINY)
    return {name: ratios[layer] / largest for name, layer in layers.items()}


def _norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm [] of all entries."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
