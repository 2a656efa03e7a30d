"""Learned weights of examples (Meta-Weight-Net, Shu et al. 2019, arXiv 1902.07379).

    v_i      = sigmoid(V(loss_i))                            V: a network with one hidden layer, on the loss alone
    weight_i = v_i / sum_j v_j

Losses are those before each inner step, so that the weights change along adaptation: an example whose label is wrong
has a large loss once the others are fitted. Weights are constants of the step, as in the authors' code, but the outer
gradient goes through the losses that they are made of.

Deviation from the paper: the outer signal is the query loss of many tasks, where theirs is that of a small clean set
beside one noisy one; hence the weighting network is trained on tasks with wrong labels of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.inner import ExampleWeightsConfig
from distmeta.core.types import Params
from distmeta.methods.learners.black_box import init_layers, linear
from distmeta.methods.learners.inner.base import PREFIX, InnerPart

NAME = f"{PREFIX}.weights"


class ExampleWeights(InnerPart):
    """A weight of each example by a network on its loss.

    Args:
        config: Width.
    """

    def __init__(self, config: ExampleWeightsConfig) -> None:
        self._config = config

    @override
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        return init_layers(NAME, (1, self._config.width, 1), rng, dtype)

    @override
    def weights(self, meta: Params, weights: Tensor, losses: Tensor) -> Tensor:
        hidden = torch.relu(linear(meta, f"{NAME}.1", losses[:, None]))
        kept = weights * torch.sigmoid(linear(meta, f"{NAME}.2", hidden))[:, 0]
        return kept / kept.sum()
