"""Presets of methods that meta-learn the architecture of a network."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, EvaluateConfig, GradientConfig, Phase


def darts(lr: float = 0.1, steps: int = 3, eval_steps: int | None = None) -> AlgorithmConfig:
    """MAML over a cell of mixed operations whose weights no inner step moves (Liu et al. 2019, arXiv 1806.09055).

    Use it with `model.kind = mixed`. `distmeta checkpoint architecture` shows what has been chosen.
    """
    return AlgorithmConfig(
        method="darts",
        learner=GradientConfig(phases=(Phase(lr=lr, steps=steps),), frozen=("architecture",)),
        estimator=BackpropConfig(order=2),
        evaluate=EvaluateConfig(steps=eval_steps),
    )
