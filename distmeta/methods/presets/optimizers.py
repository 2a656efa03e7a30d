"""Presets of learned optimizers: what is meta-learned is how a network is trained, not where it begins."""

from __future__ import annotations

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    EvolutionConfig,
    LearnedOptimizerConfig,
    LstmRuleConfig,
    MlpRuleConfig,
    Term,
)
from distmeta.config.estimators import EstimatorConfig
from distmeta.config.optimizers import RuleConfig


def learned_optimizer(
    steps: int = 100,
    window: int | None = 20,
    batch: int | None = None,
    rule: RuleConfig | None = None,
    final: float = 0.0,
) -> AlgorithmConfig:
    """A coordinate-wise LSTM, trained by truncated backpropagation (Andrychowicz et al. 2016, arXiv 1606.04474).

    `window=None` differentiates through all steps, and lets `final` weigh the loss after the last one besides the
    mean.
    """
    method = _method("learned_optimizer", rule or LstmRuleConfig(), steps, batch, BackpropConfig(window=window))
    last = (Term(weight=final),) if final else ()
    return AlgorithmConfig.model_validate({**dict(method), "terms": (*method.terms, *last)})


def evolved_optimizer(
    steps: int = 200,
    window: int | None = 20,
    batch: int | None = 64,
    std: float = 0.01,
    *,
    persistent: bool = True,
    rule: RuleConfig | None = None,
) -> AlgorithmConfig:
    """A small MLP with momentum features (Metz et al. 2022, arXiv 2203.11860), trained by PES (Vicol et al. 2021, arXiv
    2112.13835).

    `persistent=False` is truncated ES; `window=None` takes all steps at once, where both are plain ES.
    """
    estimator = EvolutionConfig(std=std, window=window, persistent=persistent)
    return _method("evolved_optimizer", rule or MlpRuleConfig(), steps, batch, estimator)


def _method(name: str, rule: RuleConfig, steps: int, batch: int | None, estimator: EstimatorConfig) -> AlgorithmConfig:
    """The outer loss is the mean of the query losses within a window."""
    return AlgorithmConfig(
        method=name,
        learner=LearnedOptimizerConfig(rule=rule, steps=steps, batch=batch),
        estimator=estimator,
        terms=(Term(at="each", weight=1 / (estimator.window or steps)),),
    )
