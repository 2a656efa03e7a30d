"""Presets of transfer learning: train jointly, then reuse."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, GradientConfig, Phase, Term


def pretrain(
    lr: float = 0.5, steps: int = 20, groups: tuple[str, ...] = ("head",), *, fresh: bool = True
) -> AlgorithmConfig:
    """Joint pre-training, then fine-tuning for each task: the transfer-learning baseline.

    Classification trains on examples of all training classes together (role `source`), and fine-tunes a head that
    starts from zeros (`groups=("all",)` moves the body as well). Regression (`fresh=False`) trains on the queries of
    all tasks, and continues from the pre-trained network.
    """
    phase = Phase(groups=groups, lr=lr, steps=steps)
    return AlgorithmConfig(
        method="pretrain",
        learner=GradientConfig(phases=(phase,), head="fresh" if fresh else "meta"),
        estimator=BackpropConfig(),
        terms=(Term(role="source" if fresh else "query", at="meta"),),
    )
