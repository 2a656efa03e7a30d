"""Label queries by the labels of similar support examples: matching networks, NIL, weighted nearest neighbours.

    weight_i(x) = exp(scale * similarity(f(x), g(x_i)))
    p(c | x)    = sum of weight_i(x) over the support examples of class c / sum over all
    logits_c(x) = log p(c | x)

    similarity(a, b) = a . b / (|a| |b|)      cosine        matching networks (Vinyals et al. 2016, arXiv 1606.04080,
                                                            section 2.1.1), NIL (Raghu et al. 2020, arXiv 1909.09157)
                     = - |a - b|^2            euclidean     neighbourhood components analysis (Goldberger et al. 2004)

f and g are the features of the body, or those of `distmeta.methods.learners.context`, which see the whole support set
(full-context embeddings). There are no inner steps (K = 0) and no parameters for a class, so training may use a larger
way than evaluation.

With k nearest neighbours, the weights of all other examples are multiplied by 1e-6: no class has probability zero, the
prediction is that of the neighbours alone, and a query whose class is not among its neighbours still has a gradient.
Examples as near as the k-th neighbour are neighbours as well.

Shapes: B queries, N support examples, C classes, D features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import NeighbourConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.context import FullContext
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

OTHER_WEIGHT = 1e-6
"""Factor of the weights of examples that are not among the k nearest."""
NOT_A_MEMBER = -1e30
"""Logarithm of the weight of an example for the classes that it does not belong to: finite, so that gradients are."""
SHORTEST_SQUARED = 1e-12
"""Feature vectors whose squared length is less are not scaled up to length 1."""


class Neighbours(NamedTuple):
    """Adapted state: support features [N, D]."""

    features: Tensor


class NeighbourLearner(Learner):
    """Classifies by weighted labels of support examples.

    Args:
        config: Similarity, its scale, number of neighbours, full-context embeddings.
        backbone: The network; its head is not used.
        num_classes: C.
    """

    reads_features_only = True

    def __init__(self, config: NeighbourConfig, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone)
        self._config, self._num_classes = config, num_classes
        self._similarity = {"cosine": cosine, "euclidean": negative_squared_distance}[config.similarity]
        self._context = FullContext(backbone.num_features, config.context_steps) if config.context_steps else None

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the backbone's body, and of the full-context embeddings."""
        params = self.backbone.init(seed)
        body = {name: params[name] for name in self.backbone.groups()["body"]}
        if self._context is None:
            return body
        return body | self._context.init(seed, next(iter(params.values())).dtype)

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Neighbours:
        """The features of the support set."""
        features = net.features(meta, task.support.inputs)
        return Neighbours(features if self._context is None else self._context.of_support(meta, features))

    @override
    def predict(
        self, net: Network, meta: Params, fast: Neighbours, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Logits [B, C]: logarithms of the class probabilities."""
        assert task.support.targets is not None
        features = net.features(meta, inputs, task.support.inputs)
        if self._context is not None:
            features = self._context.of_queries(meta, features, fast.features)
        log_weights = self._config.scale * self._similarity(features, fast.features)
        if self._config.neighbours is not None:
            log_weights = log_weights + _log_factors(log_weights.detach(), self._config.neighbours)
        return log_probabilities(log_weights, task.support.targets, self._num_classes)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines [B, N] of vectors [B, D] and [N, D]."""
    return unit(a) @ unit(b).T


def negative_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Negative squared distances [B, N] of [B, D] and [N, D], without `-|a|^2`, which cancels in the probabilities."""
    return 2 * a @ b.T - b.square().sum(1)


def log_probabilities(log_weights: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Logarithms [B, C] of the shares of the classes in the weights.

    Args:
        log_weights: [B, N] logarithms of the weights of N examples.
        targets: [N] their classes.
        num_classes: C.
    """
    classes = torch.arange(num_classes, device=targets.device)
    is_member = targets[:, None] == classes
    by_class = torch.where(is_member, log_weights[:, :, None], NOT_A_MEMBER).logsumexp(1)
    return by_class - log_weights.logsumexp(1, keepdim=True)


def _log_factors(log_weights: Tensor, neighbours: int) -> Tensor:
    """Logarithms [B, N] of 1 for the nearest examples, of `OTHER_WEIGHT` for the others."""
    nearest = log_weights.topk(min(neighbours, log_weights.shape[1]), dim=1).values
    return torch.zeros_like(log_weights).masked_fill(log_weights < nearest[:, -1:], math.log(OTHER_WEIGHT))


def unit(x: Tensor) -> Tensor:
    """Vectors [B, D], scaled to length 1."""
    return x * x.square().sum(1, keepdim=True).clamp_min(SHORTEST_SQUARED).rsqrt()
