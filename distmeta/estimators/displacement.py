"""Reptile (Nichol, Achiam & Schulman 2018, arXiv 1803.02999): the outer signal is how far adaptation went.

    signal = meta - fast_K,   so that outer SGD of rate e gives   meta <- meta + e * (mean fast_K - meta)

Nothing is differentiated through adaptation.
"""

from __future__ import annotations

import torch

from distmeta.estimators.backprop import outer_loss
from distmeta.estimators.base import Estimator, Metrics, Transforms
from distmeta.learners.base import Learner
from distmeta.types import Episode, Params


class Displacement(Estimator):
    """See the module."""

    def estimate(
        self, learner: Learner, meta: Params, episodes: Episode, transforms: Transforms
    ) -> tuple[Params, Metrics]:
        """Sum over tasks of `meta - fast`; the metrics are those of the query terms after adaptation."""

        def task(episode: Episode) -> tuple[Params, Metrics]:
            fast = learner.adapt(meta, episode.support)
            return learner.displacement(meta, fast), outer_loss(learner, meta, fast, episode)[1]

        with torch.no_grad():
            signal, metrics = transforms.over_tasks(task)(episodes)
            return (
                {name: tensor.sum(0) for name, tensor in signal.items()},
                {name: values.sum() for name, values in metrics.items()},
            )
