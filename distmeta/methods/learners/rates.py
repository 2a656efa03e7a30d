"""Learned inner rates: meta-parameters that start from the rates of the configuration.

    entry        one rate for each entry of a parameter (Meta-SGD, Li et al. 2017, arXiv 1707.09835)
    layer        one for each parameter tensor
    layer_step   one for each parameter tensor and inner step (LSLR of MAML++, Antoniou et al. 2019, arXiv 1810.09502)

Each phase has rates of its own. Steps beyond those that the rates were made for take the last one. Weight and bias of a
layer are two tensors with a rate each, as in the code of MAML++.

Shapes: K inner steps of the phase.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["entry", "layer", "layer_step"]


def initial_rates(granularity: Granularity, like: Tensor, rate: float, steps: int) -> Tensor:
    """Rates of a parameter before training: of the shape of the parameter `like`, [] or [K]."""
    shape = {"entry": like.shape, "layer": (), "layer_step": (steps,)}[granularity]
    return like.new_full(shape, rate)


def rate_at(granularity: Granularity, rates: Tensor, scalars: Tensor) -> Tensor:
    """The rate of one inner step, to be multiplied with the parameter's direction.

    Args:
        granularity: What `rates` has one of.
        rates: See `initial_rates`.
        scalars: [S] scalars of the step; the last one is its number within the phase where rates differ by step.
    """
    if granularity != "layer_step":
        return rates
    # The number of the step is data, so that all steps of a phase share one compiled graph.
    last = len(rates) - 1
    chosen = torch.arange(len(rates), dtype=rates.dtype, device=rates.device) == scalars[-1].clamp(max=last)
    return torch.where(chosen, rates, torch.zeros_like(rates)).sum()
