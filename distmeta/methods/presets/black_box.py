"""Presets of black boxes: the support set is the input of a network that has learned to learn."""

from __future__ import annotations

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    EvaluateConfig,
    InContextConfig,
    LstmConfig,
    NeuralProcessConfig,
    Term,
)


def lstm(width: int = 128, layers: int = 1, sequence: float = 1.0) -> AlgorithmConfig:
    """An LSTM that reads the support set in order (Hochreiter et al. 2001; Santoro et al. 2016, arXiv 1605.06065).

    `sequence` is the weight of the predictions along the support set, each before its label is read; 0 scores the
    queries alone.
    """
    along = (Term(role="support", head="sequence", weight=sequence),) if sequence else ()
    return AlgorithmConfig(
        method="lstm",
        learner=LstmConfig(width=width, layers=layers),
        estimator=BackpropConfig(),
        terms=(Term(), *along),
    )


def neural_process(width: int = 128, *, likelihood: bool = True) -> AlgorithmConfig:
    """Conditional neural process (Garnelo et al. 2018, arXiv 1807.01613).

    For regression it is trained by the likelihood of the queries, which evaluation reports beside the tasks' own
    score of the means. `likelihood=False` trains by the tasks' own objective: use it for classification.
    """
    distribution = Term(objective="gaussian", head="distribution")
    reported = distribution.model_copy(update={"weight": 0.0})
    return AlgorithmConfig(
        method="neural_process",
        learner=NeuralProcessConfig(width=width),
        estimator=BackpropConfig(),
        terms=(distribution if likelihood else Term(),),
        evaluate=EvaluateConfig(terms=(reported,) if likelihood else ()),
    )


def in_context(width: int = 64, layers: int = 2, attention_heads: int = 4) -> AlgorithmConfig:
    """A small transformer over support pairs and queries (Kirsch et al. 2022, arXiv 2212.04458; Garg et al. 2022)."""
    return AlgorithmConfig(
        method="in_context",
        learner=InContextConfig(width=width, layers=layers, attention_heads=attention_heads),
        estimator=BackpropConfig(),
    )
