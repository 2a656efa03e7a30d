"""Requests about trajectories that are kept (`distmeta.training.trust_region`, `.epochs`), answered by a worker.

    record      the gradient, and keep the trajectories
    again       the gradient at other meta-parameters, `at/<name>` in `extra`, on the same trajectories
    curvature   the product of the Fisher matrix with a vector: `extra` has `vector/<name>`
    trial       loss and divergence of meta-parameters that are `step/<name>` further, on the same trajectories

Trajectories are a pure function of snapshot and shard. A worker that did not record a shard, because another one did or
because it has been started anew, records it first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from distmeta.core.errors import UserError
from distmeta.core.tensors import below
from distmeta.core.types import Episode, Params, Report, Update
from distmeta.engine.engine import Engine
from distmeta.engine.trust_region import curvature, trial
from distmeta.methods.estimators.base import Moment, add_params
from distmeta.methods.learners.base import Learner
from distmeta.methods.terms import OuterTerm
from distmeta.tasks.recording import Recording

RECORD, AGAIN, CURVATURE, TRIAL = "record", "again", "curvature", "trial"
AT, VECTOR, STEP = "at/", "vector/", "step/"
"""Prefixes of names in `extra`."""
Answer = Callable[[Engine, Params, Episode, Moment, int, Params], Report]


class RecordedWork:
    """Answers requests, and keeps the trajectories of the present version.

    Args:
        learner: How training tasks are adapted.
        terms: The outer loss.

    Attributes:
        answers: Functions of engine, meta-parameters, tasks, moment, index of the shard and `extra`, by request.
    """

    def __init__(self, learner: Learner, terms: Sequence[OuterTerm]) -> None:
        self._learner, self._terms = learner, terms
        self._version = -1
        self._recordings: dict[int, Episode] = {}
        self.answers: dict[str, Answer] = {
            RECORD: self._record,
            AGAIN: self._again,
            CURVATURE: self._curvature,
            TRIAL: self._trial,
        }

    def _record(
        self, engine: Engine, meta: Params, episodes: Episode, moment: Moment, shard: int, extra: Params
    ) -> Report:
        if moment.version != self._version:
            self._version, self._recordings = moment.version, {}
        assert episodes.supply is not None
        tasks = replace(episodes, supply=Recording(episodes.supply))
        update, carry = engine.update(meta, tasks, moment)
        if carry:
            what = "the estimator keeps a state for each shard, but several steps are asked of one shard"
            raise UserError(
                what, where="outer", allowed="an estimator without a state, or epochs 1 and no trust_region"
            )
        self._recordings[shard] = tasks
        return Report(moment.version, shard, update)

    def _again(
        self, engine: Engine, meta: Params, episodes: Episode, moment: Moment, shard: int, extra: Params
    ) -> Report:
        tasks = self._recorded(engine, meta, episodes, moment, shard)
        update, _ = engine.update({**meta, **below(extra, AT)}, tasks, moment)
        return Report(moment.version, shard, update)

    def _curvature(
        self, engine: Engine, meta: Params, episodes: Episode, moment: Moment, shard: int, extra: Params
    ) -> Report:
        tasks, vector = self._recorded(engine, meta, episodes, moment, shard), below(extra, VECTOR)
        parts = engine.each_chunk(
            lambda ops, chunk: curvature(ops, self._terms, meta, chunk, vector), tasks, differentiable=True
        )
        total = parts[0]
        for part in parts[1:]:
            total = add_params(total, part)
        return Report(moment.version, shard, Update(total, float(tasks.num_tasks)))

    def _trial(
        self, engine: Engine, meta: Params, episodes: Episode, moment: Moment, shard: int, extra: Params
    ) -> Report:
        tasks, step = self._recorded(engine, meta, episodes, moment, shard), below(extra, STEP)
        moved = {name: tensor + step[name] if name in step else tensor for name, tensor in meta.items()}
        parts = engine.each_chunk(lambda ops, chunk: trial(ops, self._terms, meta, moved, chunk), tasks)
        metrics = {name: float(torch.cat([part[name] for part in parts]).double().sum()) for name in parts[0]}
        return Report(moment.version, shard, Update({}, float(tasks.num_tasks), metrics))

    def _recorded(self, engine: Engine, meta: Params, episodes: Episode, moment: Moment, shard: int) -> Episode:
        if moment.version != self._version or shard not in self._recordings:
            self._record(engine, meta, episodes, moment, shard, {})
        return self._recordings[shard]
