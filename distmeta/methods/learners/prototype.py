"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv 1703.05175).

    prototype_c = mean of the support features of class c
    logits_c(x) = - |feature(x) - prototype_c|^2

There are no inner steps (K = 0) and no parameters for a class, so training may use a larger way than evaluation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.core.types import Batch, Params
from distmeta.methods.learners.base import Learner, Stage
from distmeta.models.base import Backbone


class Prototypes(NamedTuple):
    """Adapted state: class means [C, D]."""

    means: Tensor


class PrototypeLearner(Learner):
    """Classifies by distance to class means.

    Args:
        backbone: The network; its head is not used.
        num_classes: C.
    """

    num_steps = 0

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        self._backbone, self._num_classes = backbone, num_classes

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the backbone's body."""
        params = self._backbone.init(seed)
        return {name: params[name] for name in self._backbone.groups()["body"]}

    @override
    def start(self, meta: Params, support: Batch) -> Prototypes:
        """The class means of the support features."""
        assert support.targets is not None
        features = self._backbone.features(meta, support.inputs)
        classes = torch.arange(self._num_classes, device=features.device)
        is_member = (support.targets[None, :] == classes[:, None]).to(features.dtype)
        return Prototypes(is_member @ features / is_member.sum(1, keepdim=True))

    @override
    def stage(self, k: int, num_support: int) -> Stage:
        raise IndexError(f"step {k} of a learner without steps")

    @override
    def advance(self, meta: Params, fast: Prototypes, support: Batch, kind: int, scalars: Tensor) -> Prototypes:
        return fast

    @override
    def predict(self, meta: Params, fast: Prototypes, support: Batch, inputs: Tensor) -> Tensor:
        """Logits [B, C]: negative squared distances, up to a constant for each input."""
        features = self._backbone.features(meta, inputs, support.inputs)
        # |f - p|^2 without |f|^2, which is the same for all classes and cancels in the softmax.
        return 2 * features @ fast.means.T - fast.means.square().sum(1)

    @override
    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        """Features [B, D]: without a support set there are no classes to score."""
        return self._backbone.features(meta, inputs)

    @override
    def displacement(self, meta: Params, fast: Prototypes) -> Params:
        """Zeros: adaptation changes no meta-parameter."""
        return {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
