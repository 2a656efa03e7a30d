"""Presets of methods that adapt by gradient steps."""

from __future__ import annotations

from typing import Literal

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    DisplacementConfig,
    EvaluateConfig,
    GradientConfig,
    Phase,
)
from distmeta.config.gradient import LearnedRates


def _gradient(
    method: str, phase: Phase, order: Literal[1, 2], *, learned_lr: LearnedRates = False, eval_steps: int | None
) -> AlgorithmConfig:
    return AlgorithmConfig(
        method=method,
        learner=GradientConfig(phases=(phase,), learned_lr=learned_lr),
        estimator=BackpropConfig(order=order),
        evaluate=EvaluateConfig(steps=eval_steps),
    )


def maml(lr: float = 0.4, steps: int = 1, eval_steps: int | None = 3) -> AlgorithmConfig:
    """MAML, exact second order (Finn et al. 2017, arXiv 1703.03400): Omniglot 5-way, 3 inner steps at evaluation."""
    return _gradient("maml", Phase(lr=lr, steps=steps), 2, eval_steps=eval_steps)


def fomaml(lr: float = 0.4, steps: int = 1, eval_steps: int | None = 3) -> AlgorithmConfig:
    """First-order MAML (Finn et al. 2017, section 5.2)."""
    return _gradient("fomaml", Phase(lr=lr, steps=steps), 1, eval_steps=eval_steps)


def anil(lr: float = 0.1, steps: int = 5, eval_steps: int | None = None) -> AlgorithmConfig:
    """ANIL: inner steps move only the head (Raghu et al. 2020, arXiv 1909.09157)."""
    return _gradient("anil", Phase(groups=("head",), lr=lr, steps=steps), 2, eval_steps=eval_steps)


def meta_sgd(lr: float = 0.1, steps: int = 1, eval_steps: int | None = None) -> AlgorithmConfig:
    """Meta-SGD: learned inner rates, one for each parameter entry (Li et al. 2017, arXiv 1707.09835)."""
    return _gradient("meta_sgd", Phase(lr=lr, steps=steps), 2, learned_lr="entry", eval_steps=eval_steps)


def reptile(lr: float = 1e-3, steps: int = 5, batch: int = 10, eval_steps: int = 50) -> AlgorithmConfig:
    """Reptile with inner Adam, beta1 = 0 (Nichol et al. 2018, arXiv 1803.02999): Omniglot 5-way.

    Use it with `tasks.train_shots = 10` and outer SGD with rate 1, annealed linearly to 0.
    """
    phase = Phase(lr=lr, steps=steps, batch=batch, optimizer="adam", beta1=0.0)
    return AlgorithmConfig(
        method="reptile",
        learner=GradientConfig(phases=(phase,)),
        estimator=DisplacementConfig(),
        evaluate=EvaluateConfig(steps=eval_steps),
    )


def proto_maml(
    lr: float = 0.1, steps: int = 1, order: Literal[1, 2] = 2, scale: float = 1.0, eval_steps: int | None = None
) -> AlgorithmConfig:
    """Proto-MAML: MAML whose head starts from the class means (Triantafillou et al. 2020, arXiv 1903.03096)."""
    return AlgorithmConfig(
        method="proto_maml",
        learner=GradientConfig(phases=(Phase(lr=lr, steps=steps),), head="prototypes", scale=scale),
        estimator=BackpropConfig(order=order),
        evaluate=EvaluateConfig(steps=eval_steps),
    )


def label_words(
    lr: float = 0.1,
    steps: int = 1,
    order: Literal[1, 2] = 2,
    groups: tuple[str, ...] = ("all",),
    scale: float = 1.0,
    eval_steps: int | None = None,
) -> AlgorithmConfig:
    """Scores of class names as the next words of a decoder, then inner steps (Schick & Schuetze 2021, PET, arXiv
    2001.07676). `steps=0` scores alone (Brown et al. 2020, arXiv 2005.14165).

    It takes texts (`tasks.template`), and a decoder with `model.pooling = "last"`.
    """
    return AlgorithmConfig(
        method="label_words",
        learner=GradientConfig(phases=(Phase(groups=groups, lr=lr, steps=steps),), head="label_words", scale=scale),
        estimator=BackpropConfig(order=order),
        evaluate=EvaluateConfig(steps=eval_steps),
    )
