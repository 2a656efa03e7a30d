"""Outer gradient of the outer loss by differentiating through adaptation.

    order 2:  d/d meta  L(adapt(meta))                      (MAML, exact)
    order 1:  the same with d adapt / d start taken as identity   (FOMAML, Finn et al. 2017, section 5.2)

Order 2 applies the pullbacks of adaptation's segments in reverse order; the engine decides whether a pullback stores
its autograd graph or recomputes it. Order 1 adapts without an autograd graph and applies the pullback of the start to
the derivative by the adapted state. In both, the loss also depends on meta-parameters that no inner step changes
(ANIL's body), which get their full gradient. Terms at `each` inner step are differentiated where they are scored
(the multi-step loss of MAML++, Antoniou et al. 2019, arXiv 1810.09502).

MAML++ changes both along training, by the number v of outer steps:

    order                     1 while v < first_order_until, then 2
    weight of inner step k    (1 - t) / K,  and t more for the last of the K;  t = min(1, v / each_until)

With windows (truncated backpropagation), an outer step takes the inner steps of one window from where the one before
ended, and differentiates no further back: biased, as what the meta-parameters do beyond their window is not seen.

Deviations from the code of MAML++: the weights move at each outer step instead of each epoch, to zero instead of to
0.03 / K; at order 1, learned rates have no gradient.
"""

from __future__ import annotations

from collections.abc import Hashable

from typing_extensions import override

from distmeta.config import BackpropConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import (
    Estimate,
    Estimator,
    Moment,
    Pullback,
    Slopes,
    State,
    TaskOps,
    add_cotangents,
    add_params,
)
from distmeta.methods.estimators.windows import Window, carry_of, is_continued, state_of, tensors_of, window_of
from distmeta.methods.terms import ADAPTED

Chain = list[tuple[Pullback, Slopes | None]]
"""The operations of adaptation in order, each with the slopes of the terms that are scored after it."""


class Backprop(Estimator):
    """The gradient of the summed outer losses, of the order that `config` names."""

    def __init__(self, config: BackpropConfig) -> None:
        self._config = config
        changes = config.first_order_until > 0 or config.each_until is not None
        self.reads_moment = changes or config.window is not None

    @override
    def form(self, moment: Moment) -> Hashable:
        return self._is_first_order(moment.version), is_continued(moment)

    @override
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        window = window_of(moment, ops.num_steps(episodes), self._config.window)
        state = state_of(ops, meta, episodes, window.tensors)
        chain: Chain = []
        if ADAPTED & frozenset(ops.places):
            state, chain = self._adapt(ops, meta, episodes, moment.version, window, state)
        if frozenset(ops.places) == {"each"}:
            slopes = chain[-1][1]
            assert slopes is not None, "the tasks have inner steps"
            chain[-1] = (chain[-1][0], None)
        else:
            slopes = ops.score_grad(meta, state, episodes)
        grad, cotangent, loss = slopes.by_meta, slopes.by_state, slopes.scores.metrics["loss"]
        for pullback, between in reversed(chain):
            if between is not None:
                grad, cotangent = add_params(grad, between.by_meta), add_cotangents(cotangent, between.by_state)
                loss = loss + between.scores.metrics["loss"]
            by_meta, cotangent = pullback(cotangent)
            grad = add_params(grad, by_meta)
        ordered = {name: grad[name] for name in meta if name in grad}
        if self._config.window is None:
            return Estimate(ordered, slopes.scores.metrics, slopes.scores.buffers, {})
        metrics = {**slopes.scores.metrics, "loss": loss}
        return Estimate(ordered, metrics, slopes.scores.buffers, carry_of(moment, window, tensors_of(state)))

    def _is_first_order(self, version: int) -> bool:
        return self._config.order == 1 or version < self._config.first_order_until

    def _weight(self, k: int, num_steps: int, version: int) -> float:
        """Factor of the terms that are scored after `k` of the inner steps."""
        until = self._config.each_until
        if until is None:
            return 1.0
        moved = min(1.0, version / until) if until else 1.0
        return (1 - moved) / num_steps + (moved if k == num_steps else 0.0)

    def _adapt(
        self, ops: TaskOps, meta: Params, episodes: Episode, version: int, window: Window, state: State
    ) -> tuple[State, Chain]:
        chain: Chain = []
        first_order, num_steps = self._is_first_order(version), ops.num_steps(episodes)
        if first_order:
            start = ops.start(meta, episodes)
            assert start.pullback is not None
            chain.append((start.pullback, None))
        walk = ops.walk(meta, episodes, record=not first_order, state=state, first=window.first, last=window.last)
        for k, state, pullback in walk:
            weight = self._weight(k, num_steps, version) if "each" in ops.places and k > window.first else 0.0
            slopes = _scaled(ops.score_grad(meta, state, episodes, "each"), weight) if weight else None
            if pullback is not None:
                chain.append((pullback, slopes))
            elif slopes is not None:
                chain[0] = (chain[0][0], _add_slopes(chain[0][1], slopes))
        return state, chain


def _scaled(slopes: Slopes, weight: float) -> Slopes:
    if weight == 1:
        return slopes
    by_meta = {name: weight * grad for name, grad in slopes.by_meta.items()}
    by_state = tuple(None if grad is None else weight * grad for grad in slopes.by_state)
    return Slopes(by_meta, by_state, slopes.scores)


def _add_slopes(total: Slopes | None, more: Slopes) -> Slopes:
    if total is None:
        return more
    return Slopes(add_params(total.by_meta, more.by_meta), add_cotangents(total.by_state, more.by_state), more.scores)
