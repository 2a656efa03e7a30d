"""Presets of transfer learning: ways to use labelled examples of a source for a target with few.

Use them with `tasks.source` `transfer`, whose one target is adapted to by its few examples and scored on its test
examples. The outer loop trains, evaluation adapts; what evaluation does is the strategy.

    target_only      the outer loop trains on the target's examples
    joint            ... on source and target together
    fine_tuning      ... on the source; evaluation trains on the target's examples, from there
    linear_probe, lp_ft, l2sp, surgical, auto_rgn      ... likewise, but what moves and how far differ
    merlin           ... on the source, and such that heads fitted to some target examples classify others
"""

from __future__ import annotations

from typing import Literal

from distmeta.config import AlgorithmConfig, BackpropConfig, EvaluateConfig, GradientConfig, Phase, RidgeConfig, Term
from distmeta.config.learners import LearnerConfig

Optimizer = Literal["sgd", "adam"]
JOINT = GradientConfig(phases=(Phase(groups=("head",), steps=0),))
"""No adaptation: the meta-parameters are what is used."""
SOURCE_HEAD = "source"
"""The head of the source's classes, where the target's have another one in training."""


def pretrain(
    lr: float = 0.5, steps: int = 20, groups: tuple[str, ...] = ("head",), *, fresh: bool = True
) -> AlgorithmConfig:
    """Joint pre-training, then fine-tuning for each task: the transfer-learning baseline.

    Classification trains on examples of all training classes together (role `source`), and fine-tunes a head that
    starts from zeros (`groups=("all",)` moves the body as well). Regression (`fresh=False`) trains on the queries of
    all tasks, and continues from the pre-trained network.
    """
    phase = Phase(groups=groups, lr=lr, steps=steps)
    return _pretrained("pretrain", phase, fresh=fresh, role="source" if fresh else "query")


def target_only() -> AlgorithmConfig:
    """The target's examples alone: the outer loop trains on random ones of them (role `query`)."""
    return AlgorithmConfig(method="target_only", learner=JOINT, terms=(Term(role="query", at="meta"),))


def joint(alpha: float = 0.5) -> AlgorithmConfig:
    """Joint training of one body with a head for the source and one for the target, which has weight `alpha`."""
    source = Term(role="source", at="meta", head=SOURCE_HEAD, weight=1 - alpha)
    return AlgorithmConfig(method="joint", learner=JOINT, terms=(Term(role="query", at="meta", weight=alpha), source))


def fine_tuning(
    lr: float = 1e-3,
    steps: int = 1000,
    batch: int | None = 64,
    optimizer: Optimizer = "adam",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    block_decay: float = 1.0,
    unfreeze: tuple[str, ...] = (),
    unfreeze_steps: int = 100,
    *,
    fresh: bool = True,
    pretraining: Literal["source", "rotation"] = "source",
) -> AlgorithmConfig:
    """Fine-tuning of all layers, from a network that is trained on the source.

    With `pretraining="rotation"` it is trained on the target's labelled images alone, without their labels: to tell how
    they are turned (Gidaris et al. 2018, arXiv 1803.07728). Such images can be a corpus as good as a large one (Krishna
    et al. 2023, arXiv 2209.14389).

    The head starts from zeros (`fresh=False`: from the source's, whose classes are then the target's). Rates fall by
    `block_decay` from block to block towards the inputs. With `unfreeze`, blocks of the network from the last to the
    first, the head moves alone for `unfreeze_steps`, then each of them as long with those before it, then all layers
    for `steps` (gradual unfreezing, Howard & Ruder 2018, arXiv 1801.06146).
    """
    phase = _phase(("all",), lr, steps, batch, optimizer, momentum, weight_decay)
    phase = phase.model_copy(update={"block_decay": block_decay})
    frozen = [
        phase.model_copy(update={"groups": ("head", *unfreeze[:count]), "steps": unfreeze_steps})
        for count in range(len(unfreeze))
    ]
    return _pretrained("fine_tuning", *frozen, phase, fresh=fresh, role=pretraining)


def linear_probe(
    lr: float = 1e-2,
    steps: int = 1000,
    batch: int | None = 64,
    optimizer: Optimizer = "adam",
    weight_decay: float = 0.0,
) -> AlgorithmConfig:
    """A new head on the features of a network that is trained on the source."""
    return _pretrained("linear_probe", _phase(("head",), lr, steps, batch, optimizer, 0.0, weight_decay))


def lp_ft(
    lr: float = 1e-3,
    steps: int = 1000,
    probe_lr: float = 1e-2,
    probe_steps: int = 500,
    batch: int | None = 64,
    optimizer: Optimizer = "adam",
    weight_decay: float = 0.0,
) -> AlgorithmConfig:
    """LP-FT (Kumar et al. 2022, arXiv 2202.10054): a linear probe, then fine-tuning of all layers from there."""
    probe = _phase(("head",), probe_lr, probe_steps, batch, optimizer, 0.0, weight_decay)
    return _pretrained("lp_ft", probe, _phase(("all",), lr, steps, batch, optimizer, 0.0, weight_decay))


def l2sp(
    strength: float = 0.1,
    lr: float = 1e-3,
    steps: int = 1000,
    batch: int | None = 64,
    optimizer: Optimizer = "adam",
    momentum: float = 0.0,
) -> AlgorithmConfig:
    """L2-SP (Li et al. 2018, arXiv 1802.01483): fine-tuning that is pulled towards where it starts.

    `strength` is the paper's alpha, and its beta for the new head, which starts from zeros.
    """
    phase = _phase(("all",), lr, steps, batch, optimizer, momentum, 0.0)
    return _pretrained("l2sp", phase.model_copy(update={"l2sp": strength}))


def surgical(
    groups: tuple[str, ...] = ("block1",),
    lr: float = 1e-3,
    steps: int = 1000,
    batch: int | None = 64,
    optimizer: Optimizer = "adam",
    weight_decay: float = 1e-4,
    *,
    fresh: bool = True,
) -> AlgorithmConfig:
    """Surgical fine-tuning (Lee et al. 2023, arXiv 2210.11466): some blocks move, and the head if it is new.

    `fresh=False` keeps the source's head, as in the paper, whose source and target have the same classes.
    """
    moving = (*groups, "head") if fresh and "head" not in groups else groups
    return _pretrained("surgical", _phase(moving, lr, steps, batch, optimizer, 0.0, weight_decay), fresh=fresh)


def auto_rgn(
    lr: float = 1e-3,
    steps: int = 1000,
    batch: int | None = 64,
    optimizer: Optimizer = "adam",
    weight_decay: float = 1e-4,
    *,
    fresh: bool = True,
) -> AlgorithmConfig:
    """Auto-RGN (Lee et al. 2023, arXiv 2210.11466): rates by relative gradient norms, anew in each epoch."""
    phase = _phase(("all",), lr, steps, batch, optimizer, 0.0, weight_decay)
    return _pretrained("auto_rgn", phase.model_copy(update={"auto_rgn": True}), fresh=fresh)


def merlin(
    rho: float = 1.0,
    head: Literal["ridge", "steps"] = "ridge",
    regularisation: float = 1.0,
    scale: float = 10.0,
    lr: float = 0.1,
    steps: int = 20,
    weight_decay: float = 1e-3,
    *,
    source: bool = True,
) -> AlgorithmConfig:
    """MeRLin (Liu et al. 2020, arXiv 2011.01418): features on which a head, fitted to some of the target's examples,
    classifies others.

    The outer loss is that of the source and `rho` times that of the queries, through the fitting of the head: in closed
    form (`ridge`: ridge regression, whose `regularisation` and `scale` are learned), or by `steps` gradient steps of
    cross-entropy with momentum 0.9 from zeros, of rate `lr` and with `weight_decay` (`steps`). `source=False` is
    MeRLin-ft, for a network that was pre-trained before: the loss of the queries alone.
    """
    learner: LearnerConfig = RidgeConfig(regularisation=regularisation, scale=scale)
    if head == "steps":
        phase = Phase(groups=("head",), lr=lr, steps=steps, momentum=0.9, weight_decay=weight_decay)
        learner = GradientConfig(phases=(phase,), head="fresh")
    joint = (Term(role="source", at="meta", head=SOURCE_HEAD),) if source else ()
    return AlgorithmConfig(method="merlin", learner=learner, terms=(Term(role="query", weight=rho), *joint))


def _phase(
    groups: tuple[str, ...],
    lr: float,
    steps: int,
    batch: int | None,
    optimizer: Optimizer,
    momentum: float,
    weight_decay: float,
) -> Phase:
    return Phase(
        groups=groups,
        lr=lr,
        steps=steps,
        batch=batch,
        shuffle=batch is not None,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
    )


def _pretrained(method: str, *phases: Phase, fresh: bool = True, role: str = "source") -> AlgorithmConfig:
    """The outer loop trains on examples of a role, through the head that phases go on from unless it is `fresh`, or
    through a head of their own, of turned images.
    """
    if role == "rotation" and not fresh:
        raise ValueError("a head of quarter turns is not that of the target; allowed: fresh=True")
    adaptation = GradientConfig(phases=phases, head="fresh" if fresh else "meta")
    if role == "rotation":  # in training there is no other head
        return AlgorithmConfig(
            method=method,
            learner=GradientConfig(phases=(Phase(groups=("body",), role=role, head=role, steps=0),)),
            estimator=BackpropConfig(),
            terms=(Term(role=role, at="meta", head=role),),
            evaluate=EvaluateConfig(learner=adaptation, head="head"),
        )
    terms = (Term(role=role, at="meta", head="head"),)
    return AlgorithmConfig(method=method, learner=adaptation, estimator=BackpropConfig(), terms=terms)
