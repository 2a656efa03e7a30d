"""The outer loss of one task: a weighted sum of terms, each scoring the examples of one role.

    L(meta, fast, task) = sum_i  weight_i * objective_i(forward_i, task[role_i])

A term is scored at a place: with the adapted state after the last inner step (`last`) or after every one (`each`), or
with the meta-parameters as they are (`meta`: joint training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Fast, Learner
from distmeta.methods.objectives import Objective
from distmeta.models.base import HEAD
from distmeta.models.network import Network

At = Literal["last", "each", "meta"]
Metrics = dict[str, Tensor]
ADAPTED: frozenset[At] = frozenset(("last", "each"))
"""Places at which an adapted state is scored."""


@dataclass(frozen=True)
class OuterTerm:
    """A term of the outer loss.

    Attributes:
        role: Role of the examples.
        objective: What is computed from them.
        weight: Weight of the term.
        at: Where it is scored.
        head: Head of the network that it is scored through.
        reverse: Minus the factor of its gradient by the body; None: 1.
    """

    role: str
    objective: Objective
    weight: float = 1.0
    at: At = "last"
    head: str = HEAD
    reverse: float | None = None


def terms_at(terms: Sequence[OuterTerm], at: At) -> list[tuple[int, OuterTerm]]:
    """The terms that are scored at a place, with their positions; those at `meta` are scored with those at `last`."""
    places = ("last", "meta") if at == "last" else (at,)
    return [(position, term) for position, term in enumerate(terms) if term.at in places]


def outer_loss(
    learner: Learner,
    net: Network,
    meta: Params,
    fast: Fast,
    task: Episode,
    terms: Sequence[tuple[int, OuterTerm]],
) -> tuple[Tensor, Metrics]:
    """Compute terms of the outer loss.

    Args:
        learner: How the task was adapted.
        net: The network, with the task's running statistics.
        meta: Meta-parameters.
        fast: Adapted state; may be None if no term scores it.
        task: One task.
        terms: The terms to compute, with their positions in the method's configuration; at least one.

    Returns:
        The weighted sum, and metrics: `loss` and what the objectives report, `term<i>/` before the names of all but the
        first term.
    """
    total: Tensor | None = None
    metrics: Metrics = {}
    adapted_to = task.only(learner.roles)
    for position, term in terms:

        def forward(inputs: Tensor, term: OuterTerm = term) -> Tensor:
            if term.reverse is not None:
                features = net.features(meta, inputs)
                # The features themselves, whose derivative is -reverse; exact to any order and under vmap.
                turned = features.detach() + term.reverse * (features.detach() - features)
                return net.head(meta, turned, term.head)
            if term.at == "meta":
                return learner.forward(net, meta, inputs, head=term.head)
            return learner.predict(net, meta, fast, adapted_to, inputs, head=term.head)

        value, reported = term.objective(forward, task[term.role])
        total = term.weight * value if total is None else total + term.weight * value
        prefix = f"term{position}/" if position else ""
        metrics |= {prefix + name: metric.detach() for name, metric in reported.items()}
    assert total is not None, "there is at least one term"
    return total, {"loss": total.detach(), **metrics}
