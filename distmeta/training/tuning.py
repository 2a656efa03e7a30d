"""Choose fields of a configuration by validation: a run for each setting, then the best one in full.

    settings = draws x cells of the grids
    score    = mean over validation tasks, of each setting's run        (its folds, where a source has them)
    result   = the run with the setting of the best score, tested

Trials are whole runs of one process each, which Ray Tune places on the cores. The settings are drawn from a seed before
the first one starts, so that the result does not depend on how many run at a time, or on a stop.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.load import change
from distmeta.config.python import pinned
from distmeta.config.space import Values, num_trials, override_of
from distmeta.core import seeding
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.paths import expand_user
from distmeta.core.seeding import mix
from distmeta.program.program import MetaProgram, threads_of
from distmeta.program.scoring import HIGHER_IS_BETTER, headline
from distmeta.tracking import build_tracker
from distmeta.tracking.console import Progress
from distmeta.tracking.environment import num_cores
from distmeta.training.evaluate import evaluate
from distmeta.training.run import end_status
from distmeta.training.seed_run import SeedRun
from distmeta.training.seeds import PARENT_TAG


@dataclass(frozen=True)
class Trial:
    """A setting and its score.

    Attributes:
        number: Its place among the settings as they were drawn.
        values: Field of the configuration -> value.
        metric: `accuracy`, `loss`; empty if the run failed.
        mean: Mean over the validation tasks after adaptation.
        interval: Half-width of its 95% interval.
        error: Why the run failed; None if it did not.
    """

    number: int
    values: Mapping[str, Any]
    metric: str = ""
    mean: float = math.nan
    interval: float = math.nan
    error: str | None = None

    @property
    def merit(self) -> float:
        """Higher is better; a run that failed or has no finite score is the worst."""
        if not math.isfinite(self.mean):
            return -math.inf
        return self.mean if self.metric in HIGHER_IS_BETTER else -self.mean

    def row(self) -> dict[str, str]:
        """Its row in a table."""
        values = {name: f"{each:.4g}" if isinstance(each, float) else str(each) for name, each in self.values.items()}
        score = self.error or f"{self.metric} {self.mean:.4f} ± {self.interval:.4f}"
        return {"trial": str(self.number), **values, "validation": score}


@dataclass(frozen=True)
class TuneResult:
    """Result of `tune`.

    Attributes:
        name: Name of the run.
        run_id: The tracker's id of the parent run; None without tracking.
        trials: All settings, the best first.
        best: Result of the run with the best setting, as `TrainResult.to_json` gives it.
    """

    name: str
    run_id: str | None
    trials: tuple[Trial, ...]
    best: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        trials = [asdict(trial) for trial in self.trials]
        return {"name": self.name, "run_id": self.run_id, "trials": trials, "best": dict(self.best)}

    def rows(self) -> list[dict[str, str]]:
        """A table: one row for each setting."""
        return [trial.row() for trial in self.trials]


def tune(
    config: RunConfig,
    space: Mapping[str, Values],
    *,
    draws: int | None = None,
    seed: int = 0,
    at_once: int | None = None,
    resume: bool = False,
    anew: bool = False,
    quiet: bool = False,
) -> TuneResult:
    """Train with settings from a search space, and once more with the one of the best validation score.

    The runs are called `NAME-trial0`, `NAME-trial1`, ...; in MLflow they and the last run, NAME, lie below a run
    `NAME-tune`. Trials have no test: the test tasks are seen by the last run alone.

    Args:
        config: The run. Its `evaluation.tasks` validation tasks decide; its executor is that of the last run.
        space: Values by field.
        draws: Number of settings that are drawn, each with every cell of the grids; None is 16, or 1 if there are only
            grids.
        seed: Seed of the draws.
        at_once: How many trials are trained at a time; None: as many as the cores of this machine have room for.
        resume: Leave out trials that are finished, continue those that have checkpoints and start the others.
        anew: Start all again although there are checkpoints, which are moved.
        quiet: Print progress to standard error instead of standard output.

    Raises:
        UserError: A field or a value is impossible, there are no validation tasks, or there are checkpoints and neither
            `resume` nor `anew` is given; nothing has been started then.
        DistmetaError: Every trial has failed.
    """
    is_drawn = any(values.grid is None for values in space.values())
    if draws is not None and not is_drawn and draws != 1:
        raise UserError(f"{draws} draws from grids alone", where="--draws", allowed="1, or a space with other values")
    settings = settings_of(space, draws or (16 if is_drawn else 1), seed)
    config = _at_absolute_paths(pinned(config))
    runs = [_trial_config(config, setting, number) for number, setting in enumerate(settings)]
    best_names = [*(run.name for run in runs), config.name]
    used = [name for name in best_names if checkpoints.latest(config.checkpoint.path, name) is not None]
    if used and not resume and not anew:
        raise UserError(
            f"there are checkpoints of {', '.join(used[:5])}",
            where="name",
            allowed="--resume to continue, --anew to move them and start again, or --set name=ANOTHER",
        )
    _check_validation(runs[0])
    progress = Progress(config.train.steps, name=config.name, quiet=quiet)
    with contextlib.ExitStack() as stack:
        tracker = build_tracker(config.tracking)
        described = {field: values.model_dump(mode="json", exclude_none=True) for field, values in space.items()}
        fields = {**config.model_dump(mode="json"), "space": described, "trials": len(runs)}
        parent = tracker.start(f"{config.name}-tune", fields, None) or None
        stack.push(lambda kind, error, trace: tracker.close(end_status(kind)))
        tags = {PARENT_TAG: parent} if parent else {}
        requests = [SeedRun(run, resume, anew, quiet=True, tags=tags) for run in runs]

        def shown(number: int, answer: Mapping[str, Any]) -> None:
            row = Trial(number, settings[number], **answer).row()
            progress.note(f"{config.name}: " + ", ".join(f"{name} {value}" for name, value in row.items()))

        answers = _answers(requests, at_once or max(1, num_cores() // threads_of(config)), config, shown)
        trials = [Trial(number, settings[number], **answer) for number, answer in enumerate(answers)]
        ranked = sorted(trials, key=lambda trial: (-trial.merit, trial.number))
        best = ranked[0]
        if best.merit == -math.inf:
            raise DistmetaError(f"all {len(trials)} trials have failed: {best.error or 'no finite score'}")
        tracker.log(len(trials), {f"best/{best.metric}": best.mean, "best/trial": float(best.number)})
        chosen = change(config, _overrides(best.values))
        progress.note(f"{config.name}: training with the setting of trial {best.number}")
        result = SeedRun(chosen, resume, anew, quiet, tags)
        return TuneResult(config.name, parent, tuple(ranked), result.finished() or result.train())


def settings_of(space: Mapping[str, Values], draws: int, seed: int) -> list[dict[str, Any]]:
    """The settings: each draw with each cell of the grids. Those of fewer draws are the first of more.

    Raises:
        UserError: Too many.
    """
    num_trials(space, draws)
    grids = {field: values.grid for field, values in space.items() if values.grid is not None}
    cells = [dict(zip(grids, cell, strict=True)) for cell in itertools.product(*grids.values())]
    settings = []
    for draw in range(draws):
        drawn = {
            field: values.at(float(seeding.uniform([mix(seed, draw)], field, 1)[0, 0]))
            for field, values in space.items()
            if values.grid is None
        }
        settings += [{field: {**drawn, **cell}[field] for field in space} for cell in cells]
    return settings


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [override_of(field, value) for field, value in values.items()]


def _trial_config(config: RunConfig, setting: Mapping[str, Any], number: int) -> RunConfig:
    """A run of one process without a test, whose model is not kept in MLflow."""
    own = ["runtime.executor=local", "evaluation.final_tasks=0", "tracking.model=false"]
    return change(config, [*_overrides(setting), f"name={config.name}-trial{number}", *own])


def _at_absolute_paths(config: RunConfig) -> RunConfig:
    """Processes of a cluster have working directories of their own."""
    path = config.checkpoint.path
    if "://" in path:
        return config
    return change(config, [override_of("checkpoint.path", str(expand_user(path).absolute()))])


def _check_validation(config: RunConfig) -> None:
    """Draw a validation task, so that what is missing is told before a run and not after it."""
    program = MetaProgram(config)
    try:
        program.episodes(program.source.specs("val", 0, 1))
    finally:
        program.close()


def _answers(
    requests: Sequence[SeedRun], at_once: int, config: RunConfig, shown: Callable[[int, Mapping[str, Any]], None]
) -> list[Mapping[str, Any]]:
    from distmeta.runtime.ray.trials import run_trials  # Ray loads for seconds: what is wrong has been told by now

    def trial(number: int) -> Mapping[str, Any]:
        return _score(requests[number])

    return run_trials(
        trial,
        len(requests),
        at_once=min(at_once, len(requests)),
        cpus=float(threads_of(config)),
        address=config.runtime.address,
        shown=shown,
    )


def _score(request: SeedRun) -> dict[str, Any]:
    """Train with one setting, and score it on validation tasks. One that cannot work says why: others may."""
    config = request.config
    try:
        result = request.finished() or request.train()
        scored = evaluate(result["tested"], split="val", tasks=config.evaluation.tasks, trust_code=True)
    except DistmetaError as error:
        return {"error": " ".join(str(error).split())}
    score = headline(scored.scores, scored.protocol)
    return {"metric": score.metric, "mean": score.mean[-1], "interval": score.interval[-1]}
