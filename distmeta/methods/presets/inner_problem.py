"""Presets of methods that meta-learn the inner problem: its hyperparameters, its loss, the weights of its examples."""

from __future__ import annotations

from typing import Literal

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    EvaluateConfig,
    ExampleWeightsConfig,
    GradientConfig,
    HyperparametersConfig,
    InnerLossConfig,
    Phase,
)


def hyperparameters(
    lr: float = 0.1,
    steps: int = 5,
    l2sp: float | None = 0.1,
    groups: tuple[str, ...] = ("body", "head"),
    *,
    eval_steps: int | None = None,
    fixed: tuple[str, ...] = (),
) -> AlgorithmConfig:
    """Inner rates and strengths of L2-SP learned by parameter group (Franceschi et al. 2018, arXiv 1806.04910).

    `lr` and `l2sp` are what learning starts from. `fixed=("all",)` learns them alone, for a network of given initial
    values (`train.init_from`).
    """
    return AlgorithmConfig(
        method="hyperparameters",
        learner=GradientConfig(
            phases=(Phase(lr=lr, steps=steps),), inner=(HyperparametersConfig(groups=groups, l2sp=l2sp),)
        ),
        estimator=BackpropConfig(order=2),
        evaluate=EvaluateConfig(steps=eval_steps),
        fixed=fixed,
    )


def learned_loss(
    lr: float = 0.1,
    steps: int = 1,
    width: int = 40,
    *,
    added: bool = False,
    eval_steps: int | None = None,
    fixed: tuple[str, ...] = (),
) -> AlgorithmConfig:
    """ML3: inner steps minimise a learned loss (Bechtle et al. 2021, arXiv 1906.05374).

    `added=True` adds it to the objective of the tasks. `fixed=("all",)` learns the loss alone.
    """
    return AlgorithmConfig(
        method="learned_loss",
        learner=GradientConfig(phases=(Phase(lr=lr, steps=steps),), inner=(InnerLossConfig(width=width, added=added),)),
        estimator=BackpropConfig(order=2),
        evaluate=EvaluateConfig(steps=eval_steps),
        fixed=fixed,
    )


def reweight(
    lr: float = 0.1,
    steps: int = 5,
    width: int = 100,
    head: Literal["meta", "prototypes"] = "meta",
    scale: float = 1.0,
    groups: tuple[str, ...] = ("all",),
    *,
    eval_steps: int | None = None,
    fixed: tuple[str, ...] = (),
) -> AlgorithmConfig:
    """Learned weights of support examples (Meta-Weight-Net, Shu et al. 2019, arXiv 1902.07379).

    For tasks with wrong labels: `tasks.label_noise`. `head="prototypes"` starts from class means, as Proto-MAML.
    """
    return AlgorithmConfig(
        method="reweight",
        learner=GradientConfig(
            phases=(Phase(groups=groups, lr=lr, steps=steps),),
            head=head,
            scale=scale,
            inner=(ExampleWeightsConfig(width=width),),
        ),
        estimator=BackpropConfig(order=2),
        evaluate=EvaluateConfig(steps=eval_steps),
        fixed=fixed,
    )
