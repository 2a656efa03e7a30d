"""Presets of methods that change what MAML's inner loop moves, and how its rates and its outer loss change."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, EvaluateConfig, GradientConfig, Phase, Term


def boil(lr: float = 0.5, steps: int = 1, eval_steps: int | None = None) -> AlgorithmConfig:
    """BOIL: inner steps move everything but the head (Oh et al. 2021, arXiv 2008.08882)."""
    return AlgorithmConfig(
        method="boil",
        learner=GradientConfig(phases=(Phase(groups=("body",), lr=lr, steps=steps),)),
        estimator=BackpropConfig(order=2),
        evaluate=EvaluateConfig(steps=eval_steps),
    )


def maml_pp(
    lr: float = 0.1,
    steps: int = 5,
    first_order_until: int = 25_000,
    each_until: int = 5_000,
    per_step: tuple[str, ...] = (),
) -> AlgorithmConfig:
    """MAML++: rates by layer and step, multi-step loss, annealed order (Antoniou et al. 2019, arXiv 1810.09502).

    The paper's 50 and 10 epochs of 500 outer steps. Use it with `outer.schedule = cosine`. In shorter runs, scale both
    with the number of outer steps.

    Args:
        lr: Initial inner rate.
        steps: Inner steps.
        first_order_until: Outer steps of first order.
        each_until: Outer steps over which the loss moves to that after the last inner step.
        per_step: Parameter groups with values of their own for each number of inner steps: `("norm",)` in the paper,
            for networks that have batch norm.
    """
    return AlgorithmConfig(
        method="maml_pp",
        learner=GradientConfig(phases=(Phase(lr=lr, steps=steps),), learned_lr="layer_step", per_step=per_step),
        estimator=BackpropConfig(order=2, first_order_until=first_order_until, each_until=each_until),
        terms=(Term(at="each"),),
    )


def cavia(lr: float = 1.0, steps: int = 1, eval_steps: int | None = None) -> AlgorithmConfig:
    """CAVIA: inner steps move context parameters alone, from zeros (Zintgraf et al. 2019, arXiv 1810.03642).

    Use it with `model.context_size` (mlp: 5, conv4: 100), or with a network of your own that has a group `context`.
    """
    return AlgorithmConfig(
        method="cavia",
        learner=GradientConfig(phases=(Phase(groups=("context",), lr=lr, steps=steps),), zeros=("context",)),
        estimator=BackpropConfig(order=2),
        evaluate=EvaluateConfig(steps=eval_steps),
    )
