"""Outer gradient of the query loss by differentiating through adaptation.

    order 2:  d/d meta  L_query(adapt(meta))                      (MAML, exact)
    order 1:  the same with d adapt / d start taken as identity   (FOMAML, Finn et al. 2017, section 5.2)

First order asks nothing of the learner: it adapts without recording, then gives the result the history of the start,
`fast = stop(fast_K) + start(meta) - stop(start(meta))`, so that only the last evaluation is differentiated.
Meta-parameters that adaptation does not move (ANIL's body) are reached directly and get their full gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.config import BackpropConfig
from distmeta.estimators.base import Estimator, Metrics, Transforms
from distmeta.learners.base import Fast, Learner
from distmeta.learners.objectives import find_objective
from distmeta.types import Batch, Episode, Params


class Backprop(Estimator):
    """See the module."""

    def __init__(self, config: BackpropConfig) -> None:
        self._first_order = config.order == 1

    def estimate(
        self, learner: Learner, meta: Params, episodes: Episode, transforms: Transforms
    ) -> tuple[Params, Metrics]:
        """The gradient of the tasks' summed query losses."""

        def objective(meta: Params) -> tuple[Tensor, Metrics]:
            losses, metrics = transforms.over_tasks(lambda episode: self._task(learner, meta, episode))(episodes)
            return losses.sum(), {name: values.sum() for name, values in metrics.items()}

        return transforms.grad(objective)(meta)

    def _task(self, learner: Learner, meta: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        fast: Fast = None
        if any(term.adapted for term in episode.query):
            adapt = _adapt_first_order if self._first_order else Learner.adapt
            fast = adapt(learner, meta, episode.support)
        return outer_loss(learner, meta, fast, episode)


def outer_loss(learner: Learner, meta: Params, fast: Fast, episode: Episode) -> tuple[Tensor, Metrics]:
    """Weighted sum of the query terms, and the metrics of them: `loss` and what the objectives report."""
    total: Tensor | None = None
    metrics: Metrics = {}
    for i, term in enumerate(episode.query):

        def forward(inputs: Tensor, adapted: bool = term.adapted) -> Tensor:
            return learner.predict(meta, fast, episode.support, inputs) if adapted else learner.forward(meta, inputs)

        value, found = find_objective(term.objective, f"query term {i}")(forward, term.batch)
        total = term.weight * value if total is None else total + term.weight * value
        prefix = f"term{i}/" if i else ""
        metrics |= {prefix + name: metric.detach() for name, metric in found.items()}
    assert total is not None, "an episode has at least one query term"
    return total, {"loss": total.detach(), **metrics}


def _adapt_first_order(learner: Learner, meta: Params, support: Batch) -> Fast:
    with torch.no_grad():
        fast = learner.adapt({name: tensor.detach() for name, tensor in meta.items()}, support)
    return tree_map(_reattach, learner.start(meta, support), fast)


def _reattach(start: Tensor | None, fast: Tensor | None) -> Tensor | None:
    """The value of `fast` (to the bit: what is added is zero) with the history of `start`."""
    return fast if start is None or fast is None else fast + (start - start.detach())
