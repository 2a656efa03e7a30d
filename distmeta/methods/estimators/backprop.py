"""Outer gradient of the query loss by differentiating through adaptation.

    order 2:  d/d meta  L_query(adapt(meta))                      (MAML, exact)
    order 1:  the same with d adapt / d start taken as identity   (FOMAML, Finn et al. 2017, section 5.2)

Order 2 applies the pullbacks of adaptation's segments in reverse order; the engine decides whether a pullback stores
its autograd graph or recomputes it. Order 1 adapts without an autograd graph and applies the pullback of the start to
the derivative by the adapted state. In both, the query loss also depends on meta-parameters that no inner step changes
(ANIL's body), which get their full gradient.
"""

from __future__ import annotations

from typing_extensions import override

from distmeta.config import BackpropConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Estimator, Metrics, Pullback, TaskOps
from distmeta.methods.estimators.outer_loss import needs_adaptation
from distmeta.methods.learners.base import Fast


class Backprop(Estimator):
    """The gradient of the summed query losses, of the order that `config` names."""

    def __init__(self, config: BackpropConfig) -> None:
        self._first_order = config.order == 1

    @override
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode) -> tuple[Params, Metrics]:
        fast: Fast = None
        pullbacks: list[Pullback] = []
        if needs_adaptation(episodes) and self._first_order:
            pullbacks = [ops.start(meta, episodes)[1]]
            fast = ops.adapt(meta, episodes)
        elif needs_adaptation(episodes):
            fast, pullbacks = ops.adapt_recorded(meta, episodes)
        total, cotangent, metrics = ops.score_grad(meta, fast, episodes)
        for pullback in reversed(pullbacks):
            by_meta, cotangent = pullback(cotangent)
            total = {**total, **{name: total[name] + grad if name in total else grad for name, grad in by_meta.items()}}
        zeros = {name: tensor.new_zeros(tensor.shape) for name, tensor in meta.items() if name not in total}
        return {name: total[name] if name in total else zeros[name] for name in meta}, metrics
