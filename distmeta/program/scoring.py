"""Accuracy before and after adaptation on unseen tasks, step by step, with 95% intervals.

An interval is `1.96 * standard deviation / sqrt(tasks)`, over tasks, as the few-shot literature reports it.

Shapes: T tasks, P points (numbers of inner steps at which predictions are scored).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distmeta.config import EngineConfig
from distmeta.core.types import Episode, Params
from distmeta.engine.engine import chunk_of, chunks, lift_of
from distmeta.engine.lanes import Lanes
from distmeta.engine.lifts import LIFTS
from distmeta.methods.estimators.outer_loss import outer_loss
from distmeta.methods.learners.base import Learner

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShardScores:
    """Per-task scores of a shard.

    Attributes:
        points: protocol -> [P] numbers of inner steps, the first 0.
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
        """A JSON object; `before` and `after` are the ends of the curve."""
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


def scored_points(num_steps: int) -> tuple[int, ...]:
    """Numbers of inner steps to score: all up to ten, then 1-2-5 spaced, and the last."""
    spaced = (base * 10**power for power in range(1, 6) for base in (1, 2, 5))
    return tuple(sorted({k for k in (*range(11), *spaced) if k < num_steps} | {0, num_steps}))


def score_shard(
    evaluators: Mapping[str, Learner], meta: Params, episodes: Episode, config: EngineConfig, lanes: Lanes
) -> ShardScores:
    """Adapt to every task of a shard and score the query set on the way.

    Args:
        evaluators: Learner by protocol.
        meta: Meta-parameters.
        episodes: T tasks.
        config: How chunks are cut and lifted; scoring is never compiled.
        lanes: Chunks in flight.
    """
    scores: dict[str, dict[str, Curve]] = {}
    points: dict[str, tuple[int, ...]] = {}
    for protocol, learner in evaluators.items():
        marks = scored_points(learner.num_steps)

        def task(
            episode: Episode, learner: Learner = learner, marks: tuple[int, ...] = marks
        ) -> dict[str, torch.Tensor]:
            states = (fast for k, fast in learner.walk(meta, episode.support) if k in marks)
            scores = [outer_loss(learner, meta, fast, episode)[1] for fast in states]
            return {name: torch.stack([metrics[name] for metrics in scores]) for name in scores[0]}

        lifted = torch.no_grad()(LIFTS[lift_of(config.strategy)](task))
        parts = lanes.map(lifted, chunks(episodes, chunk_of(config)))
        scores[protocol] = {
            name: np.concatenate([part[name].double().cpu().numpy() for part in parts]) for name in parts[0]
        }
        points[protocol] = marks
    return ShardScores(points, scores)


def summarise(shards: Sequence[ShardScores]) -> list[Score]:
    """Means and intervals over the tasks of all shards, which come in the order of their indices."""
    found = []
    for protocol, metrics in shards[0].scores.items():
        for metric in metrics:
            values = np.concatenate([shard.scores[protocol][metric] for shard in shards])
            count = len(values)
            spread = values.std(axis=0, ddof=1) if count > 1 else np.zeros(values.shape[1])
            half = 1.96 * spread / np.sqrt(count)
            mean = tuple(values.mean(axis=0).tolist())
            found.append(Score(protocol, metric, shards[0].points[protocol], mean, tuple(half.tolist()), count))
    return found


def headline(scores: Sequence[Score], protocol: str | None = None) -> Score:
    """The score that a run is judged by: accuracy if there is one, else loss; of `protocol`, else of the first."""
    chosen = [score for score in scores if protocol in (None, score.protocol)]
    return next((score for score in chosen if score.metric == "accuracy"), chosen[0])
