"""The same run with several seeds, side by side where there is room, and the means over seeds with their intervals.

    half-width = t * std / sqrt(S),    t: 97.5% quantile of Student's t with S - 1 degrees of freedom

over the S final means, one of each seed. Unlike the interval over the tasks of one run, this one covers what the
initial meta-parameters and the training tasks do to a result.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint.reading import run_folder
from distmeta.config import RunConfig
from distmeta.config.load import change
from distmeta.core.errors import UserError
from distmeta.tracking import build_tracker
from distmeta.training.run import end_status
from distmeta.training.seed_run import SeedRun, read_json, write_json
from distmeta.training.side_by_side import room_for, train_side_by_side

MAX_SEEDS = 1000
PARENT_TAG = "mlflow.parentRunId"
"""Nests a run below another one on MLflow's page."""
_GROUP = "seeds.json"
# 97.5% quantiles of Student's t with 1 to 30 degrees of freedom.
_QUANTILES = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_NORMAL = 1.959964


@dataclass(frozen=True)
class SeedsScore:
    """One metric of the final tests, under one protocol.

    Attributes:
        protocol: `transductive` or `inductive`.
        metric: `accuracy`, `loss`.
        before: Mean over seeds before adaptation.
        after: [S] means over tasks after adaptation, one for each seed.
        mean: Mean of `after`.
        interval: Half-width of its 95% interval over seeds (Student's t).
    """

    protocol: str
    metric: str
    before: float
    after: tuple[float, ...]
    mean: float
    interval: float


@dataclass(frozen=True)
class SeedsResult:
    """Result of `train_seeds`.

    Attributes:
        name: The name before the seeds' own.
        run_id: The tracker's id of the parent run; None without tracking.
        results: The result of each seed, as `TrainResult.to_json` gives it.
        scores: Every metric of the final tests; empty if `evaluation.final_tasks` is 0.
    """

    name: str
    run_id: str | None
    results: tuple[Mapping[str, Any], ...]
    scores: tuple[SeedsScore, ...]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "seeds": len(self.results),
            "scores": [asdict(score) for score in self.scores],
            "results": list(self.results),
        }

    def rows(self) -> list[dict[str, str]]:
        """A table: one row for each metric and protocol."""
        return [
            {
                "protocol": score.protocol,
                "metric": score.metric,
                "before adaptation": f"{score.before:.4f}",
                "after": f"{score.mean:.4f}",
                "95% interval over seeds (Student t)": f"± {score.interval:.4f}",
                "each seed": " ".join(f"{value:.4f}" for value in score.after),
            }
            for score in self.scores
        ]


def train_seeds(
    config: RunConfig,
    *,
    seeds: int = 5,
    at_once: int | None = None,
    resume: bool | Literal["auto"] = False,
    anew: bool = False,
    quiet: bool = False,
) -> SeedsResult:
    """Run a configuration with the seeds 0 to `seeds` - 1.

    The runs are called `NAME-seed0`, `NAME-seed1`, ...; in MLflow they lie below a run NAME with the means over seeds.
    Results do not depend on how many are trained at a time.

    Args:
        config: The run; its own seed is not used.
        seeds: Number of seeds.
        at_once: How many are trained at a time, from 1, in this process, to `seeds`; more than one are processes of
            their own. None: with `runtime.executor` `local`, as many as the cores have room for; one on a GPU, and
            where the result depends on time (`train.budget_s`, `engine.strategy` `measured`). Otherwise one.
        resume: Leave out seeds that are finished, continue those that have checkpoints and start the others; `auto`:
            also if there is none yet.
        anew: Start all seeds again although they have checkpoints, which are moved.
        quiet: Print progress to standard error instead of standard output.

    Raises:
        UserError: As `train`; nothing has been started if a seed has checkpoints and neither `resume` nor `anew` is
            given.
    """
    if not 2 <= seeds <= MAX_SEEDS:
        raise UserError(f"{seeds} seeds", where="--seeds", allowed=f"2 to {MAX_SEEDS}")
    if at_once is not None and not 1 <= at_once <= seeds:
        raise UserError(f"{at_once} seeds at a time", where="--at-once", allowed=f"1 to {seeds}")
    configs = [change(config, [f"seed={seed}", f"name={config.name}-seed{seed}"]) for seed in range(seeds)]
    _check_unused(config, configs, resume, anew)
    group = run_folder(config.checkpoint.path, config.name)
    before = read_json(group, _GROUP).get("run_id") if resume else None
    with contextlib.ExitStack() as stack:
        tracker = build_tracker(config.tracking)
        parent = tracker.start(config.name, {**config.model_dump(mode="json"), "seeds": seeds}, before) or None
        stack.push(lambda kind, error, trace: tracker.close(end_status(kind)))
        if parent:
            write_json(group, _GROUP, {"run_id": parent})
        tags = {PARENT_TAG: parent} if parent else {}
        runs = [SeedRun(each, bool(resume), anew, quiet, tags) for each in configs]
        results = _train(runs, at_once or min(seeds, room_for(config)))
        scores = summarise_seeds(results)
        tracker.log(seeds, {name: value for score in scores for name, value in _metrics(score).items()})
    return SeedsResult(config.name, parent, tuple(results), scores)


def _train(runs: Sequence[SeedRun], at_once: int) -> list[Mapping[str, Any]]:
    """The results of all runs, of which those that are finished are not trained again."""
    results = {seed: result for seed, run in enumerate(runs) if (result := run.finished()) is not None}
    left = {seed: run for seed, run in enumerate(runs) if seed not in results}
    if at_once > 1 and len(left) > 1:
        results |= train_side_by_side(left, at_once)
    else:
        results |= {seed: run.train() for seed, run in left.items()}
    return [results[seed] for seed in range(len(runs))]


def summarise_seeds(results: Sequence[Mapping[str, Any]]) -> tuple[SeedsScore, ...]:
    """Means and intervals over the results of at least two seeds, each as `TrainResult.to_json` gives it."""
    summaries = []
    for index, first in enumerate(results[0]["scores"]):
        scores = [result["scores"][index] for result in results]
        after = [_number(score["after"]) for score in scores]
        mean = math.fsum(after) / len(after)
        finite = all(math.isfinite(value) for value in after)
        half = student_t(len(after) - 1) * statistics.stdev(after) / math.sqrt(len(after)) if finite else math.nan
        before = math.fsum(_number(score["before"]) for score in scores) / len(scores)
        summaries.append(SeedsScore(first["protocol"], first["metric"], before, tuple(after), mean, half))
    return tuple(summaries)


def student_t(degrees: int) -> float:
    """The 97.5% quantile of Student's t (beyond 30 degrees by its expansion around the normal one, to 1e-4)."""
    if degrees <= len(_QUANTILES):
        return _QUANTILES[degrees - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _check_unused(config: RunConfig, configs: Sequence[RunConfig], resume: bool | Literal["auto"], anew: bool) -> None:
    used = [each.name for each in configs if checkpoints.latest(each.checkpoint.path, each.name) is not None]
    if used and not resume and not anew:
        raise UserError(
            f"there are checkpoints of {', '.join(used)}",
            where="name",
            allowed="--resume to continue, --anew to move them and start again, or --set name=ANOTHER",
        )
    if resume is True and not used:
        raise UserError(
            f"there is no checkpoint of {config.name}-seed0 or another seed",
            where="--resume",
            allowed="the name of a run that has been started with --seeds, or no --resume",
        )


def _metrics(score: SeedsScore) -> dict[str, float]:
    name = f"final_test.{score.protocol}.{score.metric}"
    return {name: score.mean, f"{name}_ci95": score.interval}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
