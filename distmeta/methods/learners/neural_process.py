"""Conditional neural processes (Garnelo et al. 2018, arXiv 1807.01613).

Regression (section 4.1):

    r             = mean over the support set of  encoder([f(x_i), y_i])
    mean, s       = decoder([f(x), r]);     deviation = b + (1 - b) softplus(s)
    L             = - mean over the queries of  log Normal(y | mean, deviation)

Classification (section 4.3): representations are averaged class by class and concatenated.

    r_c           = mean over the support examples of class c of  encoder(f(x_i))
    logits        = decoder([f(x), r_1, .., r_C])

Predictions are the means, which the tasks' own objective scores; head `distribution` has means and deviations, which
objective `gaussian` scores: the term of training. They do not depend on the order of the support set, nor on other
queries, unless those of the network's features do (`distmeta.models.base`). Each class has a place of its own in the
input and in the output of the decoder: predictions depend on which class has which number, and the number of classes is
fixed.

Deviations from the paper: the inputs are the features of the backbone's body (an `mlp` without hidden layers hands the
numbers on as they are); the queries alone are scored, where the paper's targets contain the support set; the
classifier's encoder and decoder are fully connected.

Shapes: B inputs, N support examples, C classes, D features, O outputs, R width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config import NeuralProcessConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import OwnHead
from distmeta.methods.learners.black_box import BlackBoxLearner, init_layers, label_vectors, layers
from distmeta.methods.learners.prototype import class_means
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

DISTRIBUTION = "distribution"


class Representation(NamedTuple):
    """Adapted state: what the support set is summarised in, [R], or [C R] for classification."""

    summary: Tensor


class NeuralProcessLearner(BlackBoxLearner):
    """Averages encoded support examples, and decodes queries by the average.

    Args:
        config: Width, layers, least deviation.
        backbone: The network; its heads are not used.
        classifies: Whether tasks are classification.
    """

    prefix = "process"

    def __init__(self, config: NeuralProcessConfig, backbone: Backbone, *, classifies: bool) -> None:
        super().__init__(backbone)
        self._config, self._classifies = config, classifies
        self.own_heads = {} if classifies else {DISTRIBUTION: OwnHead(objective="gaussian")}

    @override
    def init_own(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        config, features, outputs = self._config, self.backbone.num_features, self.backbone.num_outputs
        encoded, parts, decoded = (
            (features, outputs, outputs) if self._classifies else (features + outputs, 1, 2 * outputs)
        )
        hidden = (config.width,) * (config.decoder_layers - 1)
        params = init_layers("encoder", (encoded, *(config.width,) * config.encoder_layers), rng, dtype)
        return params | init_layers("decoder", (features + parts * config.width, *hidden, decoded), rng, dtype)

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Representation:
        """The average representation of the support set, or of each class."""
        params, x = self.own(meta), net.features(meta, task.support.inputs)
        if not self._classifies:
            x = torch.cat((x, label_vectors(task.support, self.backbone.num_outputs, x)), 1)
        encoded = layers(params, "encoder", self._config.encoder_layers, x)
        if self._classifies:
            return Representation(class_means(encoded, task.support, self.backbone.num_outputs).flatten())
        return Representation(encoded.mean(0))

    @override
    def predict(
        self, net: Network, meta: Params, fast: Representation, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Logits or means [B, O]; by head `distribution`, means and standard deviations [B, 2 O]."""
        x = net.features(meta, inputs, task.support.inputs)
        x = torch.cat((x, fast.summary.expand(len(x), -1)), 1)
        outputs = layers(self.own(meta), "decoder", self._config.decoder_layers, x)
        if self._classifies:
            return outputs
        mean, spread = outputs.chunk(2, 1)
        if head != DISTRIBUTION:
            return mean
        least = self._config.least_deviation
        return torch.cat((mean, least + (1 - least) * F.softplus(spread)), 1)
