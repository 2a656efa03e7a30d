"""All layers of a network scaled and shifted by numbers predicted from the support set (CNAPs, Requeima et al. 2019,
arXiv 1906.07697; FiLM, Perez et al. 2018, arXiv 1709.07871).

    z           = mean over the support set of  E(f(x_i))                E([f(x_i), y_i]) for regression
    (s, t)      = linear(relu(z))                 a scale and a shift for each output of each layer; zero at first
    layer(h)    = (1 + s) * (W h + b) + t         where a norm follows, its scale and shift are modulated instead

The encoder E and the last linear layer are one feed-forward network, and read the features of the network as it is.
Classification is by distance to the class means of the modulated features, so that the number of classes may change;
regression goes through the network's head, which is modulated as well. The adapted state holds modulated parameters:
(1 + s) W, (1 + s) b + t. There are no inner steps (K = 0).

Deviations from the paper: features of the network itself instead of an encoder of its own for images; class means
instead of predicted class weights (as in Simple CNAPs, Bateni et al. 2020, arXiv 1912.03432, whose distance has
covariances); the network is trained with the rest, unless `algorithm.fixed` names the body.

Shapes: B queries, N support examples, C classes, D features, M modulated outputs of all layers together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import FilmConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.black_box import BlackBoxLearner, init_layers, label_vectors, layers, linear
from distmeta.methods.learners.phases import group_names
from distmeta.methods.learners.prototype import class_means, linear_form
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

NORM = "norm"
"""Group of the scales and shifts of a network's norms."""


class Modulated(NamedTuple):
    """Adapted state.

    Attributes:
        params: Modulated parameters, by name.
        means: [C, D] class means of the modulated support features; None for regression.
    """

    params: Params
    means: Tensor | None


class FilmLearner(BlackBoxLearner):
    """Modulates the network by a representation of the support set.

    Args:
        config: Encoder, groups, scale.
        backbone: The network.
        classifies: Whether tasks are classification.
        where: Field of the configuration that `config` is, for messages.

    Raises:
        UserError: A group is unknown, or has no layers.
    """

    prefix = "film"
    reads_features_only = False

    def __init__(self, config: FilmConfig, backbone: Backbone, *, classifies: bool, where: str) -> None:
        super().__init__(backbone)
        self._config, self._classifies = config, classifies
        self.own_heads = {} if classifies else None
        groups = backbone.groups()
        chosen = config.groups or (NORM if groups.get(NORM) else "body" if classifies else "all",)
        names = dict.fromkeys(name for group in chosen for name in group_names(groups, group, f"{where}.groups"))
        params = backbone.init(0)
        weights = [name for name in names if name.endswith(".weight")]
        self._sizes = {
            layer: len(params[f"{layer}.bias"])
            for layer in (name.removesuffix(".weight") for name in weights)
            if f"{layer}.bias" in names and len(params[f"{layer}.bias"]) == len(params[f"{layer}.weight"])
        }
        if not self._sizes:
            what = f"group {', '.join(chosen)} has no layer with a weight and a bias of as many outputs"
            raise UserError(what, where=f"{where}.groups", allowed="groups of layers: norm, body, all, block1, ...")

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the network, for classification without its heads, and those of the encoder."""
        heads = {} if self._classifies else self.backbone.init(seed)
        return {**heads, **super().init(seed)}

    @override
    def init_own(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        config = self._config
        read = self.backbone.num_features + (0 if self._classifies else self.backbone.num_outputs)
        outputs = 2 * sum(self._sizes.values())
        zeros = {
            "modulation.weight": torch.zeros(outputs, config.width, dtype=dtype),
            "modulation.bias": torch.zeros(outputs, dtype=dtype),
        }
        return init_layers("encoder", (read, *(config.width,) * config.layers), rng, dtype) | zeros

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Modulated:
        """The modulated parameters, and class means."""
        own, x = self.own(meta), net.features(meta, task.support.inputs)
        if not self._classifies:
            x = torch.cat((x, label_vectors(task.support, self.backbone.num_outputs, x)), 1)
        summary = layers(own, "encoder", self._config.layers, x).mean(0, keepdim=True)
        params = self._modulated(meta, linear(own, "modulation", torch.relu(summary))[0])
        if not self._classifies:
            return Modulated(params, None)
        features = net.features({**meta, **params}, task.support.inputs)
        return Modulated(params, class_means(features, task.support, self.backbone.num_outputs))

    @override
    def predict(
        self, net: Network, meta: Params, fast: Modulated, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Logits [B, C], or predicted numbers [B, O]."""
        params = {**meta, **fast.params}
        features = net.features(params, inputs, task.support.inputs)
        if fast.means is None:
            return net.head(params, features, head)
        weight, bias = linear_form(fast.means, self._config.scale)
        return features @ weight.T + bias

    def _modulated(self, meta: Params, numbers: Tensor) -> Params:
        """The layers' parameters after scaling and shifting by `numbers` [2 M]."""
        scales, shifts = (torch.split(half, list(self._sizes.values())) for half in numbers.chunk(2))
        params: Params = {}
        for layer, scale, shift in zip(self._sizes, scales, shifts, strict=True):
            weight, bias = meta[f"{layer}.weight"], meta[f"{layer}.bias"]
            params[f"{layer}.weight"] = (1 + scale).reshape(-1, *[1] * (weight.dim() - 1)) * weight
            params[f"{layer}.bias"] = (1 + scale) * bias + shift
        return params
