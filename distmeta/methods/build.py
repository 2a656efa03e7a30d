"""Build a method from a configuration: learner and estimator over a backbone that fits the tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distmeta.config import Conv4Config, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import all_finite
from distmeta.core.types import Params
from distmeta.methods.estimators import build_estimator
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners import build_learner
from distmeta.methods.learners.base import Learner
from distmeta.models import build_backbone
from distmeta.tasks.base import TaskSignature

TRANSDUCTIVE, INDUCTIVE = "transductive", "inductive"


@dataclass(frozen=True)
class Algorithm:
    """A method, ready to run.

    Attributes:
        learner: How training tasks are adapted.
        estimator: How the outer signal is computed.
        evaluators: Learners for evaluation tasks, by protocol: `transductive` (batch norm uses statistics of the query
            batch) and `inductive` (of the support set). Networks without batch norm have only `inductive`.
    """

    learner: Learner
    estimator: Estimator
    evaluators: dict[str, Learner]


def dtype_of(config: RunConfig) -> torch.dtype:
    """The floating-point type of a run."""
    return {"float32": torch.float32, "float64": torch.float64}[config.engine.dtype]


def build_algorithm(config: RunConfig, tasks: TaskSignature) -> Algorithm:
    """Build the learner, the estimator and the evaluators of a run.

    Raises:
        UserError: A parameter group or an objective is unknown, or the network does not fit the tasks.
    """
    settings, dtype = config.algorithm, dtype_of(config)
    train_backbone = build_backbone(config.model, tasks.input_shape, tasks.num_train_outputs, dtype)
    learner = build_learner(settings.learner, train_backbone, tasks.objective, evaluating=False)
    return Algorithm(learner, build_estimator(settings.estimator), build_evaluators(config, tasks))


def check_params(config: RunConfig, tasks: TaskSignature, params: Params, where: str) -> None:
    """Check that parameters from outside are those of a configuration, by names, shapes and types, and finite.

    Raises:
        UserError: They are not.
    """
    expected = build_algorithm(config, tasks).learner.init(config.seed)
    if expected.keys() != params.keys():
        missing, extra = sorted(expected.keys() - params.keys())[:3], sorted(params.keys() - expected.keys())[:3]
        raise UserError(
            f"its parameters are not those of its configuration: {missing} are missing, {extra} are unknown",
            where=where,
            allowed="a checkpoint as it was saved, and changes that keep the network",
        )
    for name, tensor in expected.items():
        if params[name].shape != tensor.shape or params[name].dtype != tensor.dtype:
            raise UserError(
                f"parameter '{name}' is {params[name].dtype} {list(params[name].shape)}",
                where=where,
                allowed=f"{tensor.dtype} {list(tensor.shape)}, as the configuration says",
            )
    if not all_finite(params):
        raise UserError("a parameter is infinite or not a number", where=where, allowed="another checkpoint of the run")


def build_evaluators(config: RunConfig, tasks: TaskSignature) -> dict[str, Learner]:
    """Build the learner of evaluation tasks under each protocol that the network supports."""
    model = config.model
    norms = {TRANSDUCTIVE: "batch", INDUCTIVE: "support"} if isinstance(model, Conv4Config) else {INDUCTIVE: None}
    variants = {
        protocol: model if norm is None else model.model_copy(update={"norm": norm}) for protocol, norm in norms.items()
    }
    return {
        protocol: build_learner(
            config.algorithm.learner,
            build_backbone(variant, tasks.input_shape, tasks.num_outputs, dtype_of(config)),
            tasks.objective,
            evaluating=True,
        )
        for protocol, variant in variants.items()
    }


def protocol_of(config: RunConfig) -> str:
    """The protocol of a run's headline score: the one that it trains under."""
    return TRANSDUCTIVE if isinstance(config.model, Conv4Config) and config.model.norm == "batch" else INDUCTIVE
