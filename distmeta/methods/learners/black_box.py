"""Base of learners that read the support set with a network of their own, and are adapted by its activations alone.

The examples are features of the backbone's body; its heads are not used. The parameters of the body and those of the
learner's own network, below a prefix, are the meta-parameters. There are no inner steps (K = 0).

Shapes: B inputs, N support examples, D features, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.core.seeding import mix
from distmeta.core.tensors import below
from distmeta.core.types import Batch, Params
from distmeta.methods.learners.base import Learner, OwnHead
from distmeta.models.heads import linear as linear_params


class BlackBoxLearner(Learner):
    """A learner with a network of its own.

    Attributes:
        prefix: What the names of its own parameters begin with, and a dot.
    """

    reads_features_only = True
    own_heads: Mapping[str, OwnHead] | None = MappingProxyType({})
    prefix: str

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the backbone's body and those of the learner's own network."""
        params, rng = self.backbone.init(seed), torch.Generator().manual_seed(mix(seed, self.prefix))
        own = self.init_own(rng, next(iter(params.values())).dtype)
        body = {name: params[name] for name in self.backbone.groups()["body"]}
        return body | {f"{self.prefix}.{name}": tensor for name, tensor in own.items()}

    @abstractmethod
    def init_own(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        """Initial parameters of the learner's own network, without the prefix."""

    @override
    def own(self, meta: Params) -> Params:
        """The parameters of the learner's own network, without the prefix."""
        return below(meta, f"{self.prefix}.")


def label_vectors(support: Batch, num_outputs: int, like: Tensor) -> Tensor:
    """Labels of the support set as numbers [N, O]: one-hot for classes, the targets as they are for regression.

    Args:
        support: N labelled examples.
        num_outputs: O.
        like: A tensor of the type that is wanted.
    """
    assert support.targets is not None
    if support.targets.is_floating_point():
        return support.targets.reshape(-1, num_outputs)
    classes = torch.arange(num_outputs, device=support.targets.device)
    return (support.targets[:, None] == classes).to(like.dtype)


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """The linear layer `name`: [B, _] -> [B, _]."""
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def init_layers(name: str, sizes: Sequence[int], rng: torch.Generator, dtype: torch.dtype) -> Params:
    """Parameters of the linear layers `name.1`, `name.2`, ... between these sizes."""
    params: Params = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        params |= linear_params(f"{name}.{layer}", fan_in, fan_out, rng, dtype)
    return params


def layers(params: Params, name: str, count: int, x: Tensor) -> Tensor:
    """`count` linear layers with ReLU between them: [B, _] -> [B, _]."""
    for layer in range(1, count + 1):
        x = linear(params, f"{name}.{layer}", torch.relu(x) if layer > 1 else x)
    return x
