"""Presets of methods that classify by distances in feature space."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, PrototypeConfig


def protonet(scale: float = 1.0) -> AlgorithmConfig:
    """Prototypical networks (Snell et al. 2017, arXiv 1703.05175). Use it with a larger `tasks.train_way`."""
    return AlgorithmConfig(method="protonet", learner=PrototypeConfig(scale=scale), estimator=BackpropConfig())
