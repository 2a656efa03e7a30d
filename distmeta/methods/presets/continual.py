"""Presets of meta-continual learning: representations that a head can be trained on, one example at a time.

Use them with `tasks.stream`, whose `classes * shots` are the inner steps, and a network that treats examples one by one
(`convnet`). Evaluation adapts a new head to the classes of the task, one example after the other, class after class.
"""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, EvaluateConfig, GradientConfig, Phase, Term


def oml(
    lr: float = 0.03,
    steps: int = 15,
    trajectory: float = 0.0,
    groups: tuple[str, ...] = ("head",),
    eval_steps: int = 25,
    eval_lr: float | None = None,
) -> AlgorithmConfig:
    """OML (Javed & White 2019, arXiv 1905.12588): Omniglot.

    The outer loss is that of role `remember`: with `tasks.stream` of 3 classes, 5 shots, 5 queries, 15 to remember, the
    paper's. `trajectory` is the weight of the trajectory's own examples in it. `groups` are the parameters that inner
    steps move; `eval_steps` should be `tasks.way * tasks.shots`; `eval_lr` is their rate (None: `lr`).
    """
    return _continual("oml", lr, steps, trajectory, groups, (), eval_steps, eval_lr)


def anml(
    lr: float = 0.1,
    steps: int = 20,
    trajectory: float = 20 / 84,
    groups: tuple[str, ...] = ("head",),
    eval_steps: int = 25,
    eval_lr: float | None = None,
) -> AlgorithmConfig:
    """ANML (Beaulieu et al. 2020, arXiv 2002.09571): a gate that inner steps never move. Use it with `model.gate`.

    The outer loss is the mean over the 20 examples of the trajectory and the 64 to remember. `groups=("all",)` moves
    the prediction network as well, as in the paper. The other arguments are those of `oml`.
    """
    return _continual("anml", lr, steps, trajectory, groups, ("gate",), eval_steps, eval_lr)


def _continual(
    method: str,
    lr: float,
    steps: int,
    trajectory: float,
    groups: tuple[str, ...],
    frozen: tuple[str, ...],
    eval_steps: int,
    eval_lr: float | None,
) -> AlgorithmConfig:
    phase = Phase(groups=groups, role="trajectory", lr=lr, steps=steps, batch=1)
    stream = Phase(groups=("head",), lr=eval_lr or lr, steps=eval_steps, batch=1)
    own = (Term(role="trajectory", weight=trajectory),) if trajectory else ()
    return AlgorithmConfig(
        method=method,
        learner=GradientConfig(phases=(phase,), head="reset", frozen=frozen),
        estimator=BackpropConfig(order=2),
        terms=(Term(role="remember", weight=1 - trajectory), *own),
        evaluate=EvaluateConfig(learner=GradientConfig(phases=(stream,), head="fresh"), head="head"),
    )
