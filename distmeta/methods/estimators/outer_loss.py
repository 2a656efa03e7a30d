"""The outer loss of one task: a weighted sum of its query terms."""

from __future__ import annotations

from torch import Tensor

from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Metrics
from distmeta.methods.learners.base import Fast, Learner
from distmeta.methods.objectives import find_objective


def outer_loss(learner: Learner, meta: Params, fast: Fast, episode: Episode) -> tuple[Tensor, Metrics]:
    """Compute the outer loss.

    Args:
        learner: How the task was adapted.
        meta: Meta-parameters.
        fast: Adapted state; may be None if no term scores it.
        episode: One task.

    Returns:
        The weighted sum of the query terms, and metrics: `loss` and what the objectives report, `term<i>/` before the
        names of all but the first term.
    """
    total: Tensor | None = None
    metrics: Metrics = {}
    for i, term in enumerate(episode.query):

        def forward(inputs: Tensor, adapted: bool = term.adapted) -> Tensor:
            return learner.predict(meta, fast, episode.support, inputs) if adapted else learner.forward(meta, inputs)

        value, reported = find_objective(term.objective, f"query term {i}")(forward, term.batch)
        total = term.weight * value if total is None else total + term.weight * value
        prefix = f"term{i}/" if i else ""
        metrics |= {prefix + name: metric.detach() for name, metric in reported.items()}
    assert total is not None, "an episode has at least one query term"
    return total, {"loss": total.detach(), **metrics}


def needs_adaptation(episode: Episode) -> bool:
    """Whether some query term scores the adapted state."""
    return any(term.adapted for term in episode.query)
