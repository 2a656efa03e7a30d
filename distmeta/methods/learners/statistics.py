"""Adapt the statistics of batch norm to unlabelled examples; no parameter moves (BN-adapt).

    m <- (1 - share) m_running + share m_examples        of each batch norm, from the inputs to the outputs
    v <- (1 - share) v_running + share v_examples

With `share` 1 these are the statistics of a batch at prediction time (Nado et al. 2020, arXiv 2006.10963; the baseline
`norm` of TENT, Wang et al. 2021); between 0 and 1 running statistics are a prior (Schneider et al. 2020, arXiv
2006.16971, whose share is N / (N + prior) for N examples). Layers are normalised by the mixture, on which the
statistics of later ones depend. Variances are those of the examples, without correction.

The statistics stay with the task, so that a prediction depends on its own query alone (inductive).
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from distmeta.config.learners import StatisticsConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network


class StatisticsLearner(Learner):
    """Running statistics of unlabelled examples.

    Args:
        config: The share of their statistics, and their role.
        backbone: The network.
        where: Field of the configuration that `config` is, for messages.

    Raises:
        UserError: The network keeps no running statistics.
    """

    def __init__(self, config: StatisticsConfig, backbone: Backbone, where: str) -> None:
        super().__init__(backbone)
        if not backbone.buffers():
            allowed = "a network with running statistics: resnet12 with norm 'running', or a module with batch norm"
            raise UserError("the network keeps no statistics to adapt", where=f"{where}.kind", allowed=allowed)
        self.roles, self._share = (config.role,), config.share

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> tuple[()]:
        net.features(meta, task[self.roles[0]].inputs, share=self._share)
        return ()

    @override
    def predict(
        self, net: Network, meta: Params, fast: tuple[()], task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        return net(meta, inputs, head=head)
