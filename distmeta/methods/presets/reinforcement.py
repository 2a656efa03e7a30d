"""Presets of meta-reinforcement learning: inner steps of policy gradient on trajectories of the policy at hand."""

from __future__ import annotations

from typing import Literal

from distmeta.config import (
    AlgorithmConfig,
    BackpropConfig,
    EvaluateConfig,
    GradientConfig,
    Phase,
    PolicyGradientConfig,
    Term,
)


def _policy_gradient(
    method: str,
    groups: tuple[str, ...],
    order: Literal[1, 2],
    lr: float,
    steps: int,
    eval_steps: int | None,
    inner: PolicyGradientConfig,
    clip: float | None,
) -> AlgorithmConfig:
    # What is scored is differentiated once, for which `dependence` makes no difference; with 0, other parameters than
    # those that collected the trajectories are scored by the ratio of probabilities of single steps.
    outer = PolicyGradientConfig.model_validate({**inner.model_dump(), "dependence": 0.0, "clip": clip})
    return AlgorithmConfig(
        method=method,
        learner=GradientConfig(phases=(Phase(groups=groups, lr=lr, steps=steps, objective=inner),)),
        estimator=BackpropConfig(order=order),
        terms=(Term(objective=outer),),
        evaluate=EvaluateConfig(steps=eval_steps),
    )


def maml_rl(
    lr: float = 0.1,
    steps: int = 1,
    eval_steps: int | None = 3,
    discount: float = 0.99,
    gae: float = 1.0,
    dependence: float = 1.0,
    clip: float | None = None,
) -> AlgorithmConfig:
    """MAML with policy gradients (Finn et al. 2017, arXiv 1703.03400, section 5.3), its second order by DiCE.

    Args:
        lr: Inner rate.
        steps: Inner steps in training.
        eval_steps: Inner steps at evaluation.
        discount: Discount factor of rewards.
        gae: Lambda of generalised advantage estimation.
        dependence: What second derivatives know of how trajectories depend on the parameters: 1 is DiCE, exact; 0 is
            the low-variance curvature of ProMP.
        clip: How far from 1 a ratio of probabilities counts in the outer loss (PPO), which makes a difference where
            `outer.epochs` is more than 1; None: any ratio counts.
    """
    inner = PolicyGradientConfig(discount=discount, gae=gae, dependence=dependence)
    return _policy_gradient("maml_rl", ("all",), 2, lr, steps, eval_steps, inner, clip)


def fomaml_rl(
    lr: float = 0.1,
    steps: int = 1,
    eval_steps: int | None = 3,
    discount: float = 0.99,
    gae: float = 1.0,
    clip: float | None = None,
) -> AlgorithmConfig:
    """First-order MAML with policy gradients: how the adapted policy depends on the first one is left out."""
    inner = PolicyGradientConfig(discount=discount, gae=gae)
    return _policy_gradient("fomaml_rl", ("all",), 1, lr, steps, eval_steps, inner, clip)


def anil_rl(
    lr: float = 0.1,
    steps: int = 1,
    eval_steps: int | None = 3,
    discount: float = 0.99,
    gae: float = 1.0,
    dependence: float = 1.0,
    clip: float | None = None,
) -> AlgorithmConfig:
    """ANIL with policy gradients: inner steps move the head of means alone (Raghu et al. 2020, arXiv 1909.09157)."""
    inner = PolicyGradientConfig(discount=discount, gae=gae, dependence=dependence)
    return _policy_gradient("anil_rl", ("head",), 2, lr, steps, eval_steps, inner, clip)


def rl2(discount: float = 0.99, gae: float = 1.0, clip: float | None = 0.2) -> AlgorithmConfig:
    """RL2 (Duan et al. 2016, arXiv 1611.02779): a policy with a memory is trained on whole trials.

    It needs tasks with `episodes` and a network with `memory`, which is all that adapts.

    Args:
        discount: Discount factor of rewards, through all episodes of a trial.
        gae: Lambda of generalised advantage estimation.
        clip: Of PPO, for `outer.epochs` more than 1; None: any ratio counts.
    """
    settings = PolicyGradientConfig(discount=discount, gae=gae, dependence=0.0, clip=clip)
    return AlgorithmConfig(
        method="rl2",
        learner=GradientConfig(phases=(Phase(steps=0),)),
        estimator=BackpropConfig(order=1),
        terms=(Term(objective=settings, at="meta"),),
        evaluate=EvaluateConfig(steps=0),
    )
