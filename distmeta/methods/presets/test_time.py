"""Presets of adaptation at test time: joint training as usual, then unlabelled examples of the test distribution.

Without `batch`, every evaluation task is adapted to by itself, from the trained network (episodic). With it, the
queries of a task are a stream of such batches, one inner step each: each batch is predicted as it comes, by what the
batches before have left (online; across the parts of a task with several corruptions: continual). `steps` then is the
number of batches, `tasks.eval_queries / batch`.
"""

from __future__ import annotations

from typing import Literal

from distmeta.config import AlgorithmConfig, BackpropConfig, EvaluateConfig, GradientConfig, Phase, Term
from distmeta.config.learners import LearnerConfig, StatisticsConfig

_JOINT = GradientConfig(phases=(Phase(groups=("head",), steps=0),))
Order = Literal["before", "after"]


def bn_adapt(share: float = 1.0) -> AlgorithmConfig:
    """Statistics of batch norm from the test examples (Nado et al. 2020, arXiv 2006.10963).

    `share` below 1 mixes them with those of training (Schneider et al. 2020, arXiv 2006.16971).
    """
    return _test_time("bn_adapt", StatisticsConfig(share=share), None)


def tent(
    lr: float = 1e-3,
    steps: int = 1,
    optimizer: Literal["sgd", "adam"] = "adam",
    batch: int | None = None,
    predict: Order = "before",
) -> AlgorithmConfig:
    """TENT (Wang et al. 2021, arXiv 2006.10726): scales and shifts of norms minimise the entropy of predictions.

    Scored with batch statistics (protocol `transductive`). `predict` says whether a batch of a stream is predicted
    before the step that it makes, as in the paper's code, or after it.
    """
    phase = Phase(
        groups=("norm",),
        role="unlabelled",
        objective="entropy",
        lr=lr,
        steps=steps,
        optimizer=optimizer,
        batch=batch,
    )
    return _test_time("tent", GradientConfig(phases=(phase,)), None if batch is None else predict)


def ttt(
    lr: float = 1e-3,
    steps: int = 1,
    groups: tuple[str, ...] = ("body",),
    weight: float = 1.0,
    batch: int | None = None,
    predict: Order = "after",
) -> AlgorithmConfig:
    """TTT (Sun et al. 2020, arXiv 1909.13231): a shared body learns to classify and to tell how images are turned; at
    test time it takes steps on the latter.

    `weight` is that of the loss of rotations in training, `groups` what moves at test time, `batch` a number of turned
    images, four of each query.
    """
    phase = Phase(groups=groups, role="rotation", head="rotation", lr=lr, steps=steps, batch=batch)
    turned = Term(role="rotation", at="meta", head="rotation", weight=weight)
    return _test_time("ttt", GradientConfig(phases=(phase,)), None if batch is None else predict, turned)


def _test_time(method: str, learner: LearnerConfig, stream: Order | None, *terms: Term) -> AlgorithmConfig:
    return AlgorithmConfig(
        method=method,
        learner=_JOINT,
        estimator=BackpropConfig(order=1),
        terms=(Term(role="query", at="meta"), *terms),
        evaluate=EvaluateConfig(learner=learner, head="head", stream=stream),
    )
