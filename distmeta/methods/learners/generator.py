"""Weights of classes predicted from activations (Qiao, Liu, Shen & Yuille 2018, arXiv 1706.03466).

    a(x)        = f(x) / |f(x)|                                    f: features of the body, pre-trained and fixed
    s_c         = mean of a(x_i) over the support examples of class c         activation statistics
    w_c         = s_c + G(s_c)                                     G: fully connected layers, the same for all classes
    logits_c(x) = scale * a(x) . w_c

The generator G and the scale are meta-parameters; with `algorithm.fixed` naming the body, they are the only ones that
are trained. G ends with zeros at first: training starts from class means as weights ("imprinting", Qi et al. 2018,
arXiv 1712.07136). There are no inner steps (K = 0) and no parameters for a class, so training may use a larger way than
evaluation.

Deviations from the paper: the predictor is added to the statistics, where theirs takes their place; the statistics are
always means, where theirs are at random means or single activations; the classes of training episodes are predicted
alone, not together with all classes of pre-training; logits have a learned scale, as in Gidaris & Komodakis (2018,
arXiv 1804.09458), because features of length 1 bound them.

Shapes: B queries, N support examples, C classes, D features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import GeneratorConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.black_box import BlackBoxLearner, init_layers, layers
from distmeta.methods.learners.neighbours import unit
from distmeta.methods.learners.prototype import class_means
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

LOG_SCALE = "log_scale"


class ClassWeights(NamedTuple):
    """Adapted state: the weights of the classes [C, D]."""

    weight: Tensor


class GeneratorLearner(BlackBoxLearner):
    """Predicts class weights from class means.

    Args:
        config: Layers and width of the generator, scale.
        backbone: The network; its heads are not used.
        num_classes: C.
    """

    prefix = "generator"

    def __init__(self, config: GeneratorConfig, backbone: Backbone, num_classes: int) -> None:
        super().__init__(backbone)
        self._config, self._num_classes = config, num_classes

    @override
    def init_own(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        config, features = self._config, self.backbone.num_features
        params = init_layers("net", (features, *(config.width,) * (config.layers - 1), features), rng, dtype)
        last, scale = f"net.{config.layers}", torch.full((), math.log(config.scale), dtype=dtype)
        # Without a bias: the same vector added to the weights of all classes cancels in the softmax.
        hidden = {name: tensor for name, tensor in params.items() if not name.startswith(last)}
        return hidden | {f"{last}.weight": torch.zeros_like(params[f"{last}.weight"]), LOG_SCALE: scale}

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> ClassWeights:
        """The predicted weights of the classes."""
        activations = unit(net.features(meta, task.support.inputs))
        means = class_means(activations, task.support, self._num_classes)
        own, last = self.own(meta), self._config.layers
        hidden = torch.relu(layers(own, "net", last - 1, means)) if last > 1 else means
        return ClassWeights(means + hidden @ own[f"net.{last}.weight"].T)

    @override
    def predict(
        self, net: Network, meta: Params, fast: ClassWeights, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Logits [B, C]."""
        activations = unit(net.features(meta, inputs, task.support.inputs))
        return self.own(meta)[LOG_SCALE].exp() * (activations @ fast.weight.T)
