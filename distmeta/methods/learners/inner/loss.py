"""A learned inner loss (ML3, Bechtle et al. 2021, arXiv 1906.05374; Antoniou & Storkey 2019, arXiv 1905.10295).

    loss_i = mean over outputs o of  softplus(M(f(x_i)_o, y_io))            in place of the objective, or added to it

M is a small network with tanh, the same for all outputs, so that their number may change. For classification it reads
log-probabilities and one-hot labels; -y log p, cross-entropy, is one of the functions that it can approach.

Deviations from ML3: tanh for ReLU, for derivatives of second order that are not zero; M reads outputs one by one, where
theirs reads all outputs of an example; the initial values of the network are meta-learned beside the loss, unless
`algorithm.fixed` names them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config.inner import InnerLossConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Batch, Params
from distmeta.methods.learners.black_box import init_layers, label_vectors, linear
from distmeta.methods.learners.inner.base import PREFIX, InnerPart

NAME = f"{PREFIX}.loss"


class InnerLoss(InnerPart):
    """A loss of each example by a network on outputs and targets.

    Args:
        config: Width, layers, whether it is added.
    """

    def __init__(self, config: InnerLossConfig) -> None:
        self._config = config

    @override
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        return init_layers(NAME, (2, *(self._config.width,) * self._config.layers, 1), rng, dtype)

    @override
    def losses(self, meta: Params, losses: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        if batch.targets is None:
            raise UserError("a learned loss needs targets", where="algorithm.learner.inner", allowed="labelled roles")
        labels = label_vectors(batch, outputs.shape[-1], outputs)
        read = outputs if batch.targets.is_floating_point() else torch.log_softmax(outputs, -1)
        x = torch.stack((read, labels), -1)
        for layer in range(1, self._config.layers + 1):
            x = torch.tanh(linear(meta, f"{NAME}.{layer}", x))
        learned = F.softplus(linear(meta, f"{NAME}.{self._config.layers + 1}", x)).mean((-1, -2))
        return losses + learned if self._config.added else learned
