"""A small problem for learned optimizers, and their engines.

Shapes: T tasks.
"""

from __future__ import annotations

from typing import Any

import torch

from distmeta.config import EngineConfig, LearnedOptimizerConfig, LstmRuleConfig, MlpRuleConfig
from distmeta.config.estimators import EstimatorConfig
from distmeta.core.types import QUERY, Episode, Params
from distmeta.engine.engine import Engine
from distmeta.methods.estimators import build_estimator
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.learned_optimizer import OptimizerLearner
from distmeta.methods.objectives import mse
from distmeta.methods.terms import OuterTerm

from .problems import VMAP, mlp, perturbed

STEPS = 6
EACH = (OuterTerm(QUERY, mse, at="each"),)
LSTM = LstmRuleConfig(width=5, preprocess=3.0)
MLP = MlpRuleConfig(width=6, decays=(0.5, 0.9), second_decay=0.99, scale=0.05, exponent=0.3, nominal=0.7)


def learner_of(rule: Any, **fields: object) -> OptimizerLearner:
    config = LearnedOptimizerConfig.model_validate({"rule": rule, "steps": STEPS, "batch": 3, **fields})
    return OptimizerLearner(config, mlp(outputs=2, hidden=(4,)), "mse")


def meta_of(learner: Learner) -> Params:
    return perturbed(learner.init(0), size=0.3)


def seeded(episodes: Episode, first: int = 0) -> Episode:
    """The T tasks with seeds `first`, `first + 1`, ..."""
    return Episode(episodes.roles, torch.arange(first, first + episodes.num_tasks))


def engine_of(learner: Learner, estimator: EstimatorConfig, config: EngineConfig = VMAP) -> Engine:
    return Engine(learner, build_estimator(estimator), EACH, config)
