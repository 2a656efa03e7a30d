"""Runs that end before their last step, and which of the evaluated parameters are tested: with fakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint import StoreError
from distmeta.config import EvaluationConfig, RunConfig, TrackingConfig, TrainConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.program.scoring import Score, ShardScores
from distmeta.training.callbacks import Callback, StopTraining
from distmeta.training.selection import Selection

from ...fakes_training import Call
from .conftest import Driver, handle

LOSSES = {1: 9.0, 2: 5.0, 3: 4.0, 4: 6.0, 5: 7.0, 6: 5.0, 7: 8.0}
"""Loss after adaptation by version: the best is that of step 3."""


def valley(call: Call) -> Any:
    """Losses that fall and rise again."""
    if call.work.name != "evaluate":
        return handle(call)
    values = np.tile([10.0, LOSSES[-1 - call.snapshot.version]], (len(call.shard.specs), 1))
    return ShardScores({"inductive": (0, 1)}, {"inductive": {"loss": values}})


def config(driver: Driver, steps: int = 7, patience: int | None = None, **evaluation: Any) -> RunConfig:
    return driver.config(
        train=TrainConfig(steps=steps, tasks_per_step=6, log_every=3, patience=patience),
        evaluation=EvaluationConfig.model_validate({"every": 1, "tasks": 5, "final_tasks": 9, **evaluation}),
        tracking=TrackingConfig(model=True),
    )


@pytest.fixture
def driver(driver: Driver) -> Driver:
    driver.compute = valley
    return driver


class Recorder(Callback):
    """Remembers its calls; raises `StopTraining` in the method and at the step that it is told."""

    def __init__(self, method: str = "", step: int = 0) -> None:
        self._stop = (method, step)
        self.steps: list[tuple[int, float]] = []
        self.evaluations: list[tuple[int, float]] = []

    @override
    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((step, metrics["lr"]))
        self._end("step", step)

    @override
    def on_evaluation(self, step: int, scores: Sequence[Score]) -> None:
        self.evaluations.append((step, scores[0].mean[-1]))
        self._end("evaluation", step)

    def _end(self, method: str, step: int) -> None:
        if (method, step) == self._stop:
            raise StopTraining("enough")


def test_the_best_of_the_evaluated_parameters_are_tested_and_kept(driver: Driver) -> None:
    result = driver.train(config(driver))
    assert (result.steps, result.tested_step, result.stopped) == (7, 3, None)
    assert driver.evaluated()[-1] == ("test", 9, 3)
    assert result.scores[0].mean == (10.0, 4.0)
    best = checkpoints.load(result.tested)
    assert best.step == 3
    assert digest(driver.pictures[0][1]) == digest(best.averaged)
    assert driver.trackers[0].models == ["step-00000003"]
    metrics = driver.trackers[0].metrics[7]
    assert (metrics["final_test.inductive.loss"], metrics["final_test.step"]) == (4.0, 3.0)
    assert result.digest == checkpoints.load(result.checkpoint).digest, "the run's own parameters are the last"
    assert result.checkpoint.endswith("step-00000007")


@pytest.mark.parametrize("evaluation", [{"every": 0}, {"split": "test"}])
def test_without_evaluations_on_val_the_last_parameters_are_tested(
    driver: Driver, evaluation: dict[str, object]
) -> None:
    result = driver.train(config(driver, **evaluation))
    assert (result.tested_step, result.tested) == (7, result.checkpoint)
    split, _, version = driver.evaluated()[-1]
    assert (split, version) == ("test", 7)


def test_patience_ends_the_run_in_order(driver: Driver) -> None:
    result = driver.train(config(driver, patience=2))
    assert (result.steps, result.tested_step) == (5, 3)
    assert result.stopped is not None and "step 3" in result.stopped
    assert driver.saved()[5] == -7.0
    assert "train" in driver.logged[5], "the last step is logged although it was not due"
    assert driver.trackers[0].status == "FINISHED"


@pytest.mark.parametrize("interrupted_at", [3, 4])
def test_patience_is_kept_through_a_resume(driver: Driver, interrupted_at: int) -> None:
    whole = driver.train(config(driver, patience=2))
    first = config(driver, steps=interrupted_at, patience=2).model_copy(update={"name": "again"})
    driver.train(first)
    resumed = driver.train(config(driver, patience=2).model_copy(update={"name": "again"}), resume=True)
    assert (resumed.steps, resumed.digest, resumed.tested_step) == (whole.steps, whole.digest, whole.tested_step)
    assert resumed.scores == whole.scores
    again = driver.train(config(driver, patience=2).model_copy(update={"name": "again"}), resume=True)
    assert (again.steps, again.stopped) == (5, whole.stopped), "a run that has stopped does not go on"


def test_a_best_checkpoint_that_is_damaged_does_not_keep_a_run_from_resuming(driver: Driver) -> None:
    first = driver.train(config(driver, steps=4))
    for file in ("meta.safetensors",):
        (driver.folder / "loop" / "step-00000003" / file).write_bytes(b"")
    assert first.tested_step == 3
    assert driver.train(config(driver, steps=6), resume=True).tested_step == 6


def test_a_best_checkpoint_whose_save_failed_is_written_later(driver: Driver) -> None:
    save, failed = checkpoints.save, []

    def fail_once(config: RunConfig, step: int, *arguments: Any, **options: Any) -> str:
        if step == 3 and not failed:
            failed.append(step)
            raise StoreError("the disk is full", "runs", OSError("no space"))
        return save(config, step, *arguments, **options)

    driver.monkeypatch.setattr(checkpoints, "save", fail_once)
    driver.monkeypatch.setattr(checkpoints.Saver, "overdue", lambda saver: bool(saver._consecutive_failures))
    driver.train(config(driver, steps=4))
    assert failed == [3]
    assert driver.saved() == {0: None, 1: -9.0, 2: -5.0, 3: -4.0, 4: -6.0}
    assert driver.train(config(driver, steps=6), resume=True).tested_step == 3


@pytest.mark.parametrize("evaluation", [{"every": 0}, {"split": "test"}])
def test_patience_needs_evaluations(driver: Driver, evaluation: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"train\.patience 2 counts evaluations"):
        config(driver, patience=2, **evaluation)


def test_callbacks_see_every_step_and_evaluation(driver: Driver) -> None:
    recorder = Recorder()
    driver.train(config(driver, steps=4, every=2), callbacks=[recorder])
    assert recorder.steps == [(step, 0.1) for step in (1, 2, 3, 4)]
    assert recorder.evaluations == [(2, 5.0), (4, 6.0)]


@pytest.mark.parametrize("method", ["step", "evaluation"])
def test_a_callback_ends_the_run_as_its_last_step_would(driver: Driver, method: str) -> None:
    recorder, other = Recorder(method, 4), Recorder()
    result = driver.train(config(driver, every=2), callbacks=[recorder, other])
    assert (result.steps, result.stopped) == (4, "enough")
    assert driver.saved()[4] == -6.0
    assert {"train", "val", "final_test"} <= driver.logged[4]
    assert len(other.steps) == 4, "others are called too"
    assert driver.trackers[0].status == "FINISHED"
    assert driver.train(config(driver, every=2), resume=True).steps == 7


def test_other_errors_of_a_callback_end_the_run_as_failed(driver: Driver) -> None:
    class Faulty(Callback):
        @override
        def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        driver.train(config(driver), callbacks=[Faulty()])
    assert driver.trackers[0].status == "FAILED"


def test_the_history_is_a_table_of_training_and_evaluations(driver: Driver) -> None:
    result = driver.train(config(driver, steps=6, every=2))
    table = result.history
    assert table["step"].to_pylist() == [1, 2, 3, 4, 6]
    assert table["val/inductive/loss"].to_pylist() == [None, 5.0, None, 6.0, 5.0]
    assert table["train/loss"].to_pylist() == [2.0, None, 2.0, None, 2.0]
    assert not any(name.startswith("system/") for name in table.column_names)


def test_the_learner_is_that_of_the_last_or_of_the_best_checkpoint(driver: Driver) -> None:
    result = driver.train(config(driver))
    for learner, path in ((result.learner(), result.checkpoint), (result.learner("best"), result.tested)):
        assert digest(learner._params) == digest(checkpoints.load(path).averaged)


def test_selection_takes_the_earliest_of_equals_and_no_score_that_is_not_finite() -> None:
    selection = Selection(2, {})
    assert [selection.add(step, score) for step, score in enumerate((float("nan"), -2.0, -2.0, -1.0))] == [
        *(False, True, False, True)
    ]
    assert (selection.best_step, selection.exhausted) == (3, False)
    assert not selection.add(4, -1.0) and not selection.add(5, float("inf"))
    assert selection.exhausted


@pytest.mark.parametrize("scores", [(), (0.25,), (-3.0, -4.0), (0.5, 0.25, 0.75, 0.1)])
def test_selection_goes_on_from_its_progress(scores: tuple[float, ...]) -> None:
    selection = Selection(3, {})
    for step, score in enumerate(scores):
        selection.add(step, score)
    progress = selection.progress()
    assert all(value >= 0.0 for value in progress.values()), "what a checkpoint's progress can hold"
    again = Selection(3, progress)
    assert (again.best_step, again.waited) == (selection.best_step, selection.waited)
    assert [again.add(9, score) for score in (-3.5, 0.6)] == [selection.add(9, score) for score in (-3.5, 0.6)]


def test_the_error_of_a_missing_run_stays(driver: Driver) -> None:
    with pytest.raises(UserError, match="no checkpoint of 'loop'"):
        driver.train(config(driver), resume=True)
