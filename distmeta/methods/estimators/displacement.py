"""Reptile (Nichol, Achiam & Schulman 2018, arXiv 1803.02999): the outer signal is the displacement by adaptation.

    signal = meta - fast_K,   so that outer SGD of rate e gives   meta <- meta + e * (mean fast_K - meta)

No gradient is taken through adaptation.
"""

from __future__ import annotations

from typing_extensions import override

from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Estimate, Estimator, Moment, State, TaskOps


class Displacement(Estimator):
    """`meta - fast_K`, summed over the tasks; the metrics are those of the terms after adaptation."""

    @override
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        state: State = None
        for visit in ops.walk(meta, episodes):
            state = visit.state
        scores = ops.score(meta, state, episodes)
        return Estimate(ops.displacement(meta, state), scores.metrics, scores.buffers, {})
