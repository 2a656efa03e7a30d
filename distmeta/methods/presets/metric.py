"""Presets of methods that classify, or predict, by the features of the support set in closed form."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, NeighbourConfig, PrototypeConfig, RidgeConfig


def protonet(scale: float = 1.0) -> AlgorithmConfig:
    """Prototypical networks (Snell et al. 2017, arXiv 1703.05175). Use it with a larger `tasks.train_way`."""
    return AlgorithmConfig(method="protonet", learner=PrototypeConfig(scale=scale), estimator=BackpropConfig())


def matching(scale: float = 1.0, context_steps: int = 0) -> AlgorithmConfig:
    """Matching networks (Vinyals et al. 2016, arXiv 1606.04080): labels weighted by the softmax of cosines.

    `context_steps` is the number of reading steps of full-context embeddings (section 2.1.2); 0 leaves them out.
    """
    learner = NeighbourConfig(similarity="cosine", scale=scale, context_steps=context_steps)
    return AlgorithmConfig(method="matching", learner=learner, estimator=BackpropConfig())


def knn(neighbours: int | None = 5, scale: float = 1.0) -> AlgorithmConfig:
    """Weighted nearest neighbours in feature space, trained: weights `exp(-scale * |f - f_i|^2)`.

    `neighbours=None` weights the whole support set (neighbourhood components analysis, Goldberger et al. 2004).
    """
    learner = NeighbourConfig(similarity="euclidean", scale=scale, neighbours=neighbours)
    return AlgorithmConfig(method="knn", learner=learner, estimator=BackpropConfig())


def r2d2(regularisation: float = 1.0, scale: float = 1.0) -> AlgorithmConfig:
    """R2-D2: a ridge regression head whose regularisation, scale and bias are learned (Bertinetto et al. 2019).

    The arguments are what learning starts from. For classification and for regression.
    """
    learner = RidgeConfig(regularisation=regularisation, scale=scale)
    return AlgorithmConfig(method="r2d2", learner=learner, estimator=BackpropConfig())
