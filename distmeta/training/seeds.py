"""The same run with several seeds, one after the other, and the means over seeds with their intervals.

    half-width = t * std / sqrt(S),    t: 97.5% quantile of Student's t with S - 1 degrees of freedom

over the S final means, one of each seed. Unlike the interval over the tasks of one run, this one covers what the
initial meta-parameters and the training tasks do to a result.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint.reading import run_folder
from distmeta.checkpoint.storage import Folder, StoreError, convert_errors
from distmeta.config import RunConfig
from distmeta.config.load import change
from distmeta.core.errors import UserError
from distmeta.tracking import build_tracker
from distmeta.tracking.flatten import masked_config
from distmeta.training.run import end_status, train

MAX_SEEDS = 1000
PARENT_TAG = "mlflow.parentRunId"
"""Nests a run below another one on MLflow's page."""
_GROUP, _RESULT = "seeds.json", "result.json"
_ELSEWHERE = ("runtime", "tracking", "checkpoint")
"""Sections in which a finished run may differ from the one asked for."""
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
    resume: bool | Literal["auto"] = False,
    anew: bool = False,
    quiet: bool = False,
) -> SeedsResult:
    """Run a configuration with the seeds 0 to `seeds` - 1, one after the other.

    The runs are called `NAME-seed0`, `NAME-seed1`, ...; in MLflow they lie below a run NAME with the means over seeds.

    Args:
        config: The run; its own seed is not used.
        seeds: Number of seeds.
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
    configs = [change(config, [f"seed={seed}", f"name={config.name}-seed{seed}"]) for seed in range(seeds)]
    _check_unused(config, configs, resume, anew)
    group = run_folder(config.checkpoint.path, config.name)
    before = _read(group, _GROUP).get("run_id") if resume else None
    with contextlib.ExitStack() as stack:
        tracker = build_tracker(config.tracking)
        parent = tracker.start(config.name, {**config.model_dump(mode="json"), "seeds": seeds}, before) or None
        stack.push(lambda kind, error, trace: tracker.close(end_status(kind)))
        if parent:
            _write(group, _GROUP, {"run_id": parent})
        results = []
        for each in configs:
            result = _finished(each) if resume else None
            if result is None:
                tags = {PARENT_TAG: parent} if parent else {}
                trained = train(each, resume="auto" if resume else False, anew=anew, quiet=quiet, tags=tags)
                result = json.loads(json.dumps(trained.to_json()))  # as it will be read
                _write(_folder(each), _RESULT, {"config": _comparable(each), "result": result})
            results.append(result)
        scores = summarise_seeds(results)
        tracker.log(seeds, {name: value for score in scores for name, value in _metrics(score).items()})
    return SeedsResult(config.name, parent, tuple(results), scores)


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


def _finished(config: RunConfig) -> Mapping[str, Any] | None:
    """The result of a run that has ended; None if it has not, or was another one."""
    content = _read(_folder(config), _RESULT)
    return content["result"] if content.get("config") == _comparable(config) and "result" in content else None


def _comparable(config: RunConfig) -> dict[str, Any]:
    fields = masked_config(config.model_dump(mode="json"))
    return {name: value for name, value in fields.items() if name not in _ELSEWHERE}


def _folder(config: RunConfig) -> Folder:
    return run_folder(config.checkpoint.path, config.name)


def _read(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object beside the checkpoints; empty if there is none, or it was not written to its end."""
    try:
        content = json.loads(folder.read(name))
    except (UserError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(folder: Folder, name: str, content: Mapping[str, Any]) -> None:
    with contextlib.suppress(StoreError), convert_errors("the result cannot be written", folder.url):
        folder.fs.makedirs(folder.path, exist_ok=True)
        folder.fs.pipe_file((folder / name).path, json.dumps(content).encode())


def _metrics(score: SeedsScore) -> dict[str, float]:
    name = f"final_test.{score.protocol}.{score.metric}"
    return {name: score.mean, f"{name}_ci95": score.interval}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
