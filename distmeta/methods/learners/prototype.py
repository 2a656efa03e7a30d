"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv 1703.05175).

    prototype_c = mean of the support features of class c
    logits_c(x) = - scale * |feature(x) - prototype_c|^2            (scale 1 in the paper)

There are no inner steps (K = 0) and no parameters for a class, so training may use a larger way than evaluation.

Deviation from the authors' code: it normalises support and queries as one batch; here the support set is normalised by
itself, and the queries by the protocol (`distmeta.models.base`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.core.types import Batch, Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network


class Prototypes(NamedTuple):
    """Adapted state: class means [C, D]."""

    means: Tensor


class PrototypeLearner(Learner):
    """Classifies by distance to class means.

    Args:
        backbone: The network; its head is not used.
        num_classes: C.
        scale: Factor of the squared distances.
    """

    reads_features_only = True

    def __init__(self, backbone: Backbone, num_classes: int, scale: float = 1.0) -> None:
        super().__init__(backbone)
        self._num_classes, self._scale = num_classes, scale

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the backbone's body."""
        params = self.backbone.init(seed)
        return {name: params[name] for name in self.backbone.groups()["body"]}

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Prototypes:
        """The class means of the support features."""
        return Prototypes(class_means(net.features(meta, task.support.inputs), task.support, self._num_classes))

    @override
    def predict(
        self, net: Network, meta: Params, fast: Prototypes, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Logits [B, C]: negative squared distances, up to a constant for each input."""
        features = net.features(meta, inputs, task.support.inputs)
        weight, bias = linear_form(fast.means, self._scale)
        return features @ weight.T + bias


def class_means(features: Tensor, support: Batch, num_classes: int) -> Tensor:
    """Means [C, D] of the features [N, D] of each class."""
    assert support.targets is not None
    classes = torch.arange(num_classes, device=features.device)
    is_member = (support.targets[None, :] == classes[:, None]).to(features.dtype)
    return is_member @ features / is_member.sum(1, keepdim=True)


def linear_form(means: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Weight [C, D] and bias [C] of the linear layer that gives `-scale * |f - mean|^2`.

    It is without `-scale * |f|^2`, which is the same for all classes and cancels in the softmax.
    """
    return 2 * scale * means, -scale * means.square().sum(1)
