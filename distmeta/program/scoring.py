"""Score tasks before adaptation and after numbers of inner steps, with 95% confidence intervals over tasks.

The half-width of an interval is `1.96 * std / sqrt(T)`, as the few-shot literature reports it; `std` is the sample
standard deviation over the T tasks.

Shapes: T tasks, P points (numbers of inner steps after which the query set is scored).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmeta.config import EngineConfig
from distmeta.core import ranks
from distmeta.core.types import OUTSIDE, QUERY, Episode, Params
from distmeta.engine.chunks import cut, in_order
from distmeta.engine.engine import chunk_of, is_compiled, lift_of, make_ops
from distmeta.engine.graphs.compiled import canonical
from distmeta.engine.lanes import Lanes
from distmeta.engine.ops import EagerOps
from distmeta.engine.precision import library_precision, products
from distmeta.methods.estimators.base import State
from distmeta.methods.learners.base import Learner
from distmeta.methods.terms import Metrics, OuterTerm
from distmeta.program.features import FeatureTable, reads_table
from distmeta.program.streams import Order, score_stream

OUTSIDE_AUROC = "outside_auroc"
HIGHER_IS_BETTER = ("accuracy", "return")
"""Metrics that say how good a learner is; of others, the loss does."""
Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShardScores:
    """Per-task scores of a shard.

    Attributes:
        points: protocol -> [P] numbers of inner steps, the first one 0.
        scores: protocol -> metric -> [T, P].
    """

    points: dict[str, tuple[int, ...]]
    scores: dict[str, dict[str, Curve]]


@dataclass(frozen=True)
class Score:
    """One metric under one protocol.

    Attributes:
        protocol: `transductive` or `inductive`.
        metric: `accuracy`, `loss`.
        points: [P] numbers of inner steps.
        mean: [P] means over tasks.
        interval: [P] half-widths of their 95% intervals.
        tasks: T.
    """

    protocol: str
    metric: str
    points: tuple[int, ...]
    mean: tuple[float, ...]
    interval: tuple[float, ...]
    tasks: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `before` and `after` are the means at the first and the last point."""
        return {
            "protocol": self.protocol,
            "metric": self.metric,
            "tasks": self.tasks,
            "before": self.mean[0],
            "after": self.mean[-1],
            "interval": self.interval[-1],
            "points": list(self.points),
            "mean": list(self.mean),
            "half_width": list(self.interval),
        }


def scored_points(num_steps: int, *, curve: bool = True) -> tuple[int, ...]:
    """Numbers of inner steps to score: 0 to 10, then 20, 50, 100, 200, ..., and the last. Without a curve, the ends."""
    if not curve:
        return tuple(sorted({0, num_steps}))
    spaced = (base * 10**power for power in range(1, 6) for base in (1, 2, 5))
    return tuple(sorted({k for k in (*range(11), *spaced) if k < num_steps} | {0, num_steps}))


class Scorer:
    """Adapts to every task of a shard and scores its query set at every point.

    Tasks with a role `outside` (examples of none of their classes) also have a score `outside_auroc`: how well the
    probability of the most probable class tells queries from these (Hendrycks & Gimpel 2017, arXiv 1610.02136).

    Args:
        evaluators: Learners by protocol.
        terms: What is scored, all of it through one head.
        config: Strategy, chunk and products of the engine, which scores as it trains.
        lanes: Threads that compute chunks.
        stream: Score the queries in batches, as they come (`distmeta.program.streams`): the points are 0 and K.
        curve: Score after several numbers of inner steps (`evaluation.curve`).
    """

    def __init__(
        self,
        evaluators: Mapping[str, Learner],
        terms: Sequence[OuterTerm],
        config: EngineConfig,
        lanes: Lanes,
        stream: Order | None = None,
        *,
        curve: bool = True,
    ) -> None:
        self._config, self._lanes, self._stream, self._curve = config, lanes, stream, curve
        self._head = terms[0].head
        self._tables = {
            name: FeatureTable(learner, lanes, config.matmul)
            for name, learner in evaluators.items()
            if reads_table(learner) and ranks.current.world == 1
        }
        self._ops = {
            name: EagerOps(self._tables[name].learner, lift_of(config.strategy), terms, "flat", training=False)
            if name in self._tables
            else make_ops(learner, terms, config, lanes.count)
            for name, learner in evaluators.items()
        }
        self._prepared: set[tuple[object, ...]] = set()

    def score(self, meta: Params, episodes: Episode) -> ShardScores:
        """Score T tasks with meta-parameters and running statistics."""
        snapshot = meta
        if is_compiled(self._config):
            meta, episodes = canonical(meta), episodes.map(lambda tensor: tensor.contiguous())
        size = chunk_of(self._config) or self._lanes.chunk(episodes.num_tasks)
        scores: dict[str, dict[str, Curve]] = {}
        points: dict[str, tuple[int, ...]] = {}
        with library_precision(self._config.matmul):
            for protocol, ops in self._ops.items():
                steps = ops.num_steps(episodes)
                points[protocol] = self._points(steps) if self._stream is None else (0, steps)
                known, tasks = meta, episodes
                if protocol in self._tables:
                    known, tasks = self._tables[protocol].look_up(snapshot, episodes)
                chunks = cut(tasks, size)
                parts = self._score_chunks(protocol, known, [chunk.episodes for chunk in chunks])
                scores[protocol] = {
                    name: in_order(chunks, [part[name] for part in parts]).double().cpu().numpy() for name in parts[0]
                }
        return ShardScores(points, scores)

    def _score_chunks(self, protocol: str, meta: Params, parts: list[Episode]) -> list[Metrics]:
        ops = self._ops[protocol]
        is_traced = is_compiled(self._config) and protocol not in self._tables
        for part in parts if is_traced else ():  # tracing is not thread-safe: before the lanes start
            key = (protocol, part.form, *(tensor.shape for tensor in part.tensors()))
            if key not in self._prepared:
                self._score_chunk(ops, meta, part)
                self._prepared.add(key)
        return self._lanes.map(lambda part: self._score_chunk(ops, meta, part), parts)

    def _points(self, num_steps: int) -> tuple[int, ...]:
        return scored_points(num_steps, curve=self._curve)

    def _score_chunk(self, ops: EagerOps, meta: Params, part: Episode) -> Metrics:
        """Metrics [T, P] of a chunk."""
        points, curve = self._points(ops.num_steps(part)), []
        task = part.only([role for role in part.roles if role != OUTSIDE])
        with nullcontext() if is_compiled(self._config) else products(self._config.matmul):
            if self._stream is not None:
                return score_stream(ops, meta, task, self._stream)
            for visit in ops.walk(meta, task, marks=points):
                if visit.k in points:
                    metrics = dict(ops.score(meta, visit.state, task).metrics)
                    if OUTSIDE in part.roles:
                        known, unknown = (
                            _confidences(ops, meta, visit.state, part, role, self._head) for role in (QUERY, OUTSIDE)
                        )
                        metrics[OUTSIDE_AUROC] = auroc(known, unknown)
                    curve.append(metrics)
        return {name: torch.stack([metrics[name] for metrics in curve], 1) for name in curve[0]}


def _confidences(ops: EagerOps, meta: Params, state: State, tasks: Episode, role: str, head: str) -> Tensor:
    """The probability [T, B] of the most probable class, for the examples of a role."""
    places = None if tasks.sizes is None else dict(tasks.sizes[0].places).get(role)  # a chunk has tasks of one size
    outputs = ops.predict(meta, state, tasks, tasks[role].inputs, places, head=head)
    return outputs.softmax(-1).amax(-1)


def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """The area under the ROC curve of each task: the share of pairs in the right order, ties count half.

    Args:
        positive: [T, B] scores that should be high.
        negative: [T, C] scores that should be low.

    Returns:
        [T].
    """
    difference = positive[:, :, None] - negative[:, None, :]
    return ((difference.sign() + 1) / 2).mean((1, 2))


def summarise(shards: Sequence[ShardScores]) -> list[Score]:
    """Mean and interval over the tasks of all shards, for every protocol and metric.

    Args:
        shards: Scores in the order of the shards' indices, so that the bits of a mean do not depend on timing.
    """
    summaries = []
    for protocol, metrics in shards[0].scores.items():
        for metric in metrics:
            values = np.concatenate([shard.scores[protocol][metric] for shard in shards])
            num_tasks = len(values)
            with np.errstate(invalid="ignore", over="ignore"):  # an infinite score has no interval: NaN
                std = values.std(axis=0, ddof=1) if num_tasks > 1 else np.zeros(values.shape[1])
            interval = tuple((1.96 * std / np.sqrt(num_tasks)).tolist())
            mean = tuple(values.mean(axis=0).tolist())
            summaries.append(Score(protocol, metric, shards[0].points[protocol], mean, interval, num_tasks))
    return summaries


def headline(scores: Sequence[Score], protocol: str | None = None) -> Score:
    """The main score of a run, of `protocol` or of the first one: accuracy or return, else the first metric."""
    candidates = [score for score in scores if protocol in (None, score.protocol)]
    return next((score for score in candidates if score.metric in HIGHER_IS_BETTER), candidates[0])
