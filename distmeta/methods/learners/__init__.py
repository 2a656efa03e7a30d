"""Learners adapt to one task. A new one is a class and a row of `LEARNERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distmeta.config.black_box import InContextConfig, LstmConfig, NeuralProcessConfig
from distmeta.config.gradient import GradientConfig
from distmeta.config.learners import (
    LearnerConfig,
    NeighbourConfig,
    NewtonConfig,
    PrototypeConfig,
    RidgeConfig,
    StatisticsConfig,
)
from distmeta.config.optimizers import LearnedOptimizerConfig
from distmeta.config.prediction import FilmConfig, GeneratorConfig
from distmeta.config.python import PythonLearner
from distmeta.core.code import instance_of
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.film import FilmLearner
from distmeta.methods.learners.generator import GeneratorLearner
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.learners.in_context import InContextLearner
from distmeta.methods.learners.learned_optimizer import OptimizerLearner
from distmeta.methods.learners.lstm import LstmLearner
from distmeta.methods.learners.neighbours import NeighbourLearner
from distmeta.methods.learners.neural_process import NeuralProcessLearner
from distmeta.methods.learners.newton import NewtonLearner
from distmeta.methods.learners.prototype import PrototypeLearner
from distmeta.methods.learners.ridge import RidgeLearner
from distmeta.methods.learners.statistics import StatisticsLearner
from distmeta.models.base import Backbone

LearnerFactory = Callable[[Any, Backbone, str, str], Learner]


def _gradient(config: GradientConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return GradientLearner(config, backbone, objective, where)


def _newton(config: NewtonConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return NewtonLearner(config, backbone, objective, where)


def _prototype(config: PrototypeConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return PrototypeLearner(backbone, backbone.num_outputs, config.scale)


def _neighbours(config: NeighbourConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return NeighbourLearner(config, backbone, backbone.num_outputs)


def _ridge(config: RidgeConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return RidgeLearner(config, backbone, backbone.num_outputs)


def _statistics(config: StatisticsConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return StatisticsLearner(config, backbone, where)


def _lstm(config: LstmConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return LstmLearner(config, backbone)


def _neural_process(config: NeuralProcessConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return NeuralProcessLearner(config, backbone, classifies=objective == "cross_entropy")


def _in_context(config: InContextConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return InContextLearner(config, backbone)


def _generator(config: GeneratorConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return GeneratorLearner(config, backbone, backbone.num_outputs)


def _film(config: FilmConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return FilmLearner(config, backbone, classifies=objective == "cross_entropy", where=where)


def _learned_optimizer(config: LearnedOptimizerConfig, backbone: Backbone, objective: str, where: str) -> Learner:
    return OptimizerLearner(config, backbone, objective, where)


def _python(config: PythonLearner, backbone: Backbone, objective: str, where: str) -> Learner:
    learner: Learner = instance_of(Learner, config, where, backbone)
    return learner


LEARNERS: dict[str, LearnerFactory] = {
    "gradient": _gradient,
    "newton_cg": _newton,
    "prototype": _prototype,
    "neighbours": _neighbours,
    "ridge": _ridge,
    "statistics": _statistics,
    "lstm": _lstm,
    "neural_process": _neural_process,
    "in_context": _in_context,
    "generator": _generator,
    "film": _film,
    "learned_optimizer": _learned_optimizer,
    "python": _python,
}


def build_learner(
    config: LearnerConfig, backbone: Backbone, objective: str, where: str = "algorithm.learner"
) -> Learner:
    """Build a learner.

    Args:
        config: Its configuration.
        backbone: The network.
        objective: Name of the tasks' own loss.
        where: Field of the configuration that `config` is, for messages.
    """
    return LEARNERS[config.kind](config, backbone, objective, where)
