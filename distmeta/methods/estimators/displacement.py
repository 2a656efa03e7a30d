"""Reptile (Nichol, Achiam & Schulman 2018, arXiv 1803.02999): the outer signal is how far adaptation went.

    signal = meta - fast_K,   so that outer SGD of rate e gives   meta <- meta + e * (mean fast_K - meta)

Nothing is differentiated through adaptation.
"""

from __future__ import annotations

from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Estimator, Metrics, TaskOps


class Displacement(Estimator):
    """See the module."""

    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode) -> tuple[Params, Metrics]:
        """Sum over tasks of `meta - fast`; the metrics are those of the query terms after adaptation."""
        fast = ops.adapt(meta, episodes)
        return ops.displacement(meta, fast), ops.score(meta, fast, episodes)
