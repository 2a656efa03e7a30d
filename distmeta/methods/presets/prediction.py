"""Presets of methods that predict parameters from the support set."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig, BackpropConfig, FilmConfig, GeneratorConfig


def weight_generator(
    width: int = 256, layers: int = 2, scale: float = 10.0, *, fixed: tuple[str, ...] = ("body",)
) -> AlgorithmConfig:
    """Class weights from activations (Qiao et al. 2018, arXiv 1706.03466): only the generator is trained.

    Use it with `train.init_from`, a run that has trained the body. `fixed=()` trains the body as well.
    """
    return AlgorithmConfig(
        method="weight_generator",
        learner=GeneratorConfig(width=width, layers=layers, scale=scale),
        estimator=BackpropConfig(),
        fixed=fixed,
    )


def film(width: int = 64, layers: int = 2, scale: float = 1.0, *, fixed: tuple[str, ...] = ()) -> AlgorithmConfig:
    """All layers scaled and shifted by numbers predicted from the support set (CNAPs, Requeima et al. 2019).

    `fixed=("body",)` trains the predicting network alone, as in the paper: use it with `train.init_from`.
    """
    return AlgorithmConfig(
        method="film",
        learner=FilmConfig(width=width, layers=layers, scale=scale),
        estimator=BackpropConfig(),
        fixed=fixed,
    )
