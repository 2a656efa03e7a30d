"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv 1703.05175).

    prototype_c = mean of the support features of class c
    logits_c(x) = - |feature(x) - prototype_c|^2

There is nothing to step: K = 0. The number of classes is that of the support labels, so training may use more ways than
evaluation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distmeta.core.types import Batch, Params
from distmeta.methods.learners.base import Learner, Stage
from distmeta.models.base import Backbone


class Prototypes(NamedTuple):
    """Adapted state: class means [C, D]."""

    means: Tensor


class PrototypeLearner(Learner):
    """See the module.

    Args:
        backbone: The network; its head is left out.
        num_classes: C.
    """

    num_steps = 0

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        self._backbone, self._num_classes = backbone, num_classes

    def init(self, seed: int) -> Params:
        """The body's parameters."""
        params = self._backbone.init(seed)
        return {name: params[name] for name in self._backbone.groups()["body"]}

    def start(self, meta: Params, support: Batch) -> Prototypes:
        """Class means of the support features."""
        assert support.targets is not None
        features = self._backbone.features(meta, support.inputs)
        classes = torch.arange(self._num_classes, device=features.device)
        member = (support.targets[None, :] == classes[:, None]).to(features.dtype)
        return Prototypes(member @ features / member.sum(1, keepdim=True))

    def stage(self, k: int, num_support: int) -> Stage:
        """There are no steps."""
        raise IndexError(f"step {k} of a learner without steps")

    def advance(self, meta: Params, fast: Prototypes, support: Batch, kind: int, scalars: Tensor) -> Prototypes:
        """Prototypes do not move."""
        return fast

    def predict(self, meta: Params, fast: Prototypes, support: Batch, inputs: Tensor) -> Tensor:
        """Negative squared distances [B, C]."""
        features = self._backbone.features(meta, inputs, support.inputs)
        # |f - p|^2 without |f|^2, which is the same for all classes and cancels in the softmax.
        return 2 * features @ fast.means.T - fast.means.square().sum(1)

    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        """Features: without a support set there are no classes to score."""
        return self._backbone.features(meta, inputs)

    def displacement(self, meta: Params, fast: Prototypes) -> Params:
        """Adaptation moves no meta-parameter."""
        return {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
