"""Presets of unsupervised domain adaptation: training on labelled examples and on unlabelled ones of another domain.

Use them with `tasks.source: shifted`, whose unlabelled examples are under the shift.
"""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, EvaluateConfig, GradientConfig, Phase, Term


def deep_coral(weight: float = 1.0) -> AlgorithmConfig:
    """Deep CORAL (Sun & Saenko 2016, arXiv 1607.01719): outputs have the same covariance in both domains.

    `weight` is that of the distance of covariances, which the paper sets so that both losses are alike at the end.
    """
    return _joint("deep_coral", Term(role="domains", objective="coral", at="meta", weight=weight))


def dann(reverse: float = 1.0, weight: float = 1.0) -> AlgorithmConfig:
    """DANN (Ganin et al. 2016, arXiv 1505.07818): a second head tells the domains apart, and the body prevents it.

    `reverse` is the factor of the reversed gradient, `weight` that of the loss of domains.
    """
    return _joint("dann", Term(role="domains", head="domain", at="meta", weight=weight, reverse=reverse))


def _joint(method: str, term: Term) -> AlgorithmConfig:
    return AlgorithmConfig(
        method=method,
        learner=GradientConfig(phases=(Phase(groups=("head",), steps=0),)),
        estimator=BackpropConfig(order=1),
        terms=(Term(role="query", at="meta"), term),
        evaluate=EvaluateConfig(head="head"),
    )
