"""Outer gradient of the query loss by differentiating through adaptation.

    order 2:  d/d meta  L_query(adapt(meta))                      (MAML, exact)
    order 1:  the same with d adapt / d start taken as identity   (FOMAML, Finn et al. 2017, section 5.2)

Second order walks back through the parts of the adaptation, each of which knows its own pullback; whether a pullback
kept its graph or computes it anew is the engine's matter. First order adapts without recording and hands the derivative
by the adapted state straight to the start. Meta-parameters that adaptation does not move (ANIL's body) are reached
directly and get their full gradient.
"""

from __future__ import annotations

from distmeta.config import BackpropConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Estimator, Metrics, Pullback, TaskOps
from distmeta.methods.estimators.outer_loss import needs_adaptation
from distmeta.methods.learners.base import Fast


class Backprop(Estimator):
    """See the module."""

    def __init__(self, config: BackpropConfig) -> None:
        self._first_order = config.order == 1

    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode) -> tuple[Params, Metrics]:
        """The gradient of the tasks' summed query losses."""
        fast: Fast = None
        pullbacks: list[Pullback] = []
        if needs_adaptation(episodes) and self._first_order:
            pullbacks = [ops.start(meta, episodes)[1]]
            fast = ops.adapt(meta, episodes)
        elif needs_adaptation(episodes):
            fast, pullbacks = ops.adapt_recorded(meta, episodes)
        total, cotangent, metrics = ops.score_grad(meta, fast, episodes)
        for pullback in reversed(pullbacks):
            part, cotangent = pullback(cotangent)
            total = {**total, **{name: total[name] + grad if name in total else grad for name, grad in part.items()}}
        zeros = {name: tensor.new_zeros(tensor.shape) for name, tensor in meta.items() if name not in total}
        return {name: total[name] if name in total else zeros[name] for name in meta}, metrics
