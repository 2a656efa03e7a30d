"""Score a task as a stream: its queries come in batches, one for each inner step.

    before   batch k is scored by the state after k steps, then it takes its own      predict, then adapt
    after    batch k is scored by the state after its own step

Shapes: T tasks, K inner steps, which are batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.engine.ops import EagerOps
from distmeta.methods.estimators.base import State
from distmeta.methods.learners.base import Stage
from distmeta.methods.terms import Metrics

Order = Literal["before", "after"]


def score_stream(ops: EagerOps, meta: Params, tasks: Episode, order: Order) -> Metrics:
    """Mean metrics [T, 2] over the batches of streams: by the state before all steps, and as they come.

    Args:
        ops: The learner's operations.
        meta: Meta-parameters and running statistics.
        tasks: T tasks.
        order: Whether a batch is scored before its own inner step or after it.

    Raises:
        UserError: The inner steps are not one for each batch.
    """
    batches = batches_of(tasks, ops.stages(tasks))
    start: State = None
    scores, delay = [], int(order == "after")
    for visit in ops.walk(meta, tasks, marks=(0,)):
        start = visit.state if visit.k == 0 else start
        if 0 <= visit.k - delay < len(batches):
            scores.append(ops.score(meta, visit.state, batches[visit.k - delay]).metrics)
    unadapted = [ops.score(meta, start, batch).metrics for batch in batches]
    return {
        name: torch.stack([torch.stack([each[name] for each in found]).mean(0) for found in (unadapted, scores)], 1)
        for name in scores[0]
    }


def batches_of(tasks: Episode, stages: Sequence[Stage]) -> list[Episode]:
    """The parts of tasks that belong to their inner steps: of each role, equal parts in order.

    Raises:
        UserError: The steps are not one for each batch, or a role cannot be divided into as many parts.
    """
    first = stages[0]
    total = tasks[first.role].inputs.shape[1]
    size = total if first.rows is None else len(first.rows)
    if total % size or total // size != len(stages):
        what = f"a stream of {total} examples of role '{first.role}' has {total / size:g} batches of {size}"
        raise UserError(
            f"{what}, but the learner takes {len(stages)} inner steps",
            where="algorithm.evaluate.stream",
            allowed="one inner step (phases.steps) for each batch (phases.batch)",
        )
    in_order = [tuple(range(k * size, (k + 1) * size)) for k in range(len(stages))]
    if first.rows is not None and [stage.rows for stage in stages] != in_order:
        what = f"the inner steps do not take the examples of role '{first.role}' in their order"
        raise UserError(what, where="algorithm.evaluate.stream", allowed="one phase without shuffling")
    for role, batch in tasks.roles.items():
        if batch.inputs.shape[1] % len(stages):
            raise UserError(
                f"the {batch.inputs.shape[1]} examples of role '{role}' are not {len(stages)} equal batches",
                where="algorithm.evaluate.stream",
                allowed="a multiple of the number of batches",
            )
    return [_part(tasks, k, len(stages)) for k in range(len(stages))]


def _part(tasks: Episode, k: int, count: int) -> Episode:
    """The k-th of `count` equal parts of each role."""
    roles = {
        role: batch.map(lambda tensor: tensor.chunk(count, 1)[k].contiguous()) for role, batch in tasks.roles.items()
    }
    return Episode(roles, tasks.seeds)
