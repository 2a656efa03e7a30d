"""Presets of the study of feature reuse (Raghu et al. 2020, arXiv 1909.09157): bodies tested without a head."""

from __future__ import annotations

from typing import Literal

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    EvaluateConfig,
    GradientConfig,
    NeighbourConfig,
    Phase,
    Term,
)
from distmeta.methods.presets.gradient import anil


def nil_head(algorithm: AlgorithmConfig, method: str | None = None) -> AlgorithmConfig:
    """The same training, tested without a head: cosines of features weight the labels of the support set.

    Args:
        algorithm: A method whose body is trained for classification.
        method: Name in reports; by default, that of the method and `_nil`.
    """
    return AlgorithmConfig(
        method=method or f"{algorithm.method}_nil",
        learner=algorithm.learner,
        estimator=algorithm.estimator,
        terms=algorithm.terms,
        evaluate=EvaluateConfig(learner=NeighbourConfig(similarity="cosine")),
    )


def nil(lr: float = 0.1, steps: int = 5) -> AlgorithmConfig:
    """NIL, no inner loop (Raghu et al. 2020, section 5): ANIL training, tested without a head."""
    return nil_head(anil(lr=lr, steps=steps), "nil")


def multitask(heads: Literal["shared", "task"] = "shared", lr: float = 0.1, steps: int = 5) -> AlgorithmConfig:
    """Multitask training of one body, tested without a head (Raghu et al. 2020, section 6).

    `shared`: body and one head are trained on the queries of all tasks together, without adaptation: the study's
    regime, which has no head for a task. `task`: each task has a head of its own, fitted to its queries by `steps`
    gradient steps of rate `lr` from zeros; the body then takes the gradient of the same loss with the heads held fixed
    (of first order). Either way, there is no division into what is adapted to and what is scored.
    """
    if heads == "shared":
        learner, term = GradientConfig(phases=(Phase(groups=("head",), steps=0),)), Term(role="query", at="meta")
    else:
        phase = Phase(groups=("head",), role="query", lr=lr, steps=steps)
        learner, term = GradientConfig(phases=(phase,), head="fresh"), Term(role="query")
    training = AlgorithmConfig(method="multitask", learner=learner, estimator=BackpropConfig(order=1), terms=(term,))
    return nil_head(training, "multitask")
