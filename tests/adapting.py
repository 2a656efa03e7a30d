"""Adapt learners to one task and predict, without a task axis: for tests that look at one task at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.core.types import SUPPORT, Batch, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.methods.learners.base import Fast, Learner
from distmeta.methods.objectives import OBJECTIVES
from distmeta.methods.terms import OuterTerm
from distmeta.models.network import Network


def query_term(objective: str = "cross_entropy") -> tuple[OuterTerm, ...]:
    """The usual outer loss: the queries after adaptation."""
    return (OuterTerm("query", OBJECTIVES[objective]),)


def walk(learner: Learner, meta: Params, task: Batch | Episode) -> Sequence[Fast]:
    """The adapted state after 0, 1, ..., K inner steps, from a task or its support set alone."""
    roles = {SUPPORT: task} if isinstance(task, Batch) else task.roles
    batches = {role: batch.map(lambda tensor: tensor.unsqueeze(0)) for role, batch in roles.items()}
    task = Episode(batches, torch.zeros(1, dtype=torch.int64))
    visits = one_by_one(learner).walk(meta, task, marks=(0,))
    return [tree_map(_without_task_axis, visit.state.fast) for visit in visits]


def _without_task_axis(leaf: Any) -> Any:
    return leaf.squeeze(0) if isinstance(leaf, Tensor) else leaf


def adapt(learner: Learner, meta: Params, task: Batch | Episode) -> Fast:
    """The adapted state after all inner steps, from a task or its support set alone."""
    return walk(learner, meta, task)[-1]


def predict(learner: Learner, meta: Params, fast: Fast, support: Batch, inputs: Tensor) -> Tensor:
    """Outputs [B, O] of an adapted learner."""
    with torch.no_grad():
        net = Network(learner.backbone, training=False)
        return learner.predict(net, meta, fast, Episode({SUPPORT: support}), inputs)
