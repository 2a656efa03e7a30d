"""Presets of methods that differentiate the solution of the inner problem, not the way there."""

from __future__ import annotations

from distmeta.config import (
    AlgorithmConfig,
    EvaluateConfig,
    GradientConfig,
    ImplicitConfig,
    NewtonConfig,
    Phase,
)


def imaml(
    lr: float = 0.1,
    steps: int = 16,
    l2sp: float = 2.0,
    cg_steps: int = 5,
    damping: float = 1.0,
    eval_steps: int | None = None,
) -> AlgorithmConfig:
    """Implicit MAML with gradient descent (Rajeswaran et al. 2019, arXiv 1909.04630): Omniglot 5-way."""
    return AlgorithmConfig(
        method="imaml",
        learner=GradientConfig(phases=(Phase(lr=lr, steps=steps, l2sp=l2sp),)),
        estimator=ImplicitConfig(steps=cg_steps, damping=damping),
        evaluate=EvaluateConfig(steps=eval_steps),
    )


def imaml_hf(
    lr: float = 0.1,
    steps: int = 3,
    l2sp: float = 2.0,
    cg_steps: int = 5,
    damping: float = 1.0,
    eval_steps: int | None = None,
) -> AlgorithmConfig:
    """Hessian-free iMAML: Newton steps by conjugate gradient, then a gradient step of rate `lr`.

    `cg_steps` counts for the Newton directions and for the meta-gradient.
    """
    return AlgorithmConfig(
        method="imaml_hf",
        learner=NewtonConfig(proximal=l2sp, steps=steps, cg_steps=cg_steps, lr=lr),
        estimator=ImplicitConfig(steps=cg_steps, damping=damping),
        evaluate=EvaluateConfig(steps=eval_steps),
    )
