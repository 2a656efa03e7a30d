"""Runs with several seeds, with fakes: what is run, what is left out, and the means over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from distmeta.config import EngineConfig, EvaluationConfig, RunConfig, RuntimeConfig, TrainConfig
from distmeta.core.errors import UserError, WorkerError
from distmeta.program.scoring import ShardScores
from distmeta.training import seed_run, side_by_side
from distmeta.training import seeds as module
from distmeta.training.seed_run import SeedRun
from distmeta.training.seeds import SeedsResult, student_t, summarise_seeds, train_seeds

from ...fakes_training import Call, FakeTracker
from .conftest import Driver, handle

LOSSES = {0: 0.1, 1: 0.2, 2: 0.4}


@pytest.fixture
def parents(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[FakeTracker]:
    """The trackers of the parent runs; the runs of the seeds go through the driver."""
    parents: list[FakeTracker] = []

    def build(config: Any) -> FakeTracker:
        parents.append(FakeTracker())
        return parents[-1]

    def run(config: RunConfig, **options: Any) -> Any:
        def compute(call: Call) -> Any:
            if call.work.name != "evaluate":
                return handle(call)
            values = np.tile([1.0, LOSSES[config.seed]], (len(call.shard.specs), 1))
            return ShardScores({"inductive": (0, 1)}, {"inductive": {"loss": values}})

        driver.compute = compute
        options.pop("quiet")
        return driver.train(config, **options)

    monkeypatch.setattr(module, "build_tracker", build)
    monkeypatch.setattr(seed_run, "train", run)
    return parents


def config(driver: Driver, steps: int = 2) -> RunConfig:
    return driver.config(steps=steps, evaluation=EvaluationConfig(final_tasks=4))


def run(driver: Driver, steps: int = 2, **options: Any) -> SeedsResult:
    return train_seeds(config(driver, steps), seeds=3, **{"at_once": 1, **options})


def test_each_seed_is_a_run_below_one_parent(driver: Driver, parents: list[FakeTracker]) -> None:
    result = run(driver)
    assert [tracker.started[0][0] for tracker in driver.trackers] == ["loop-seed0", "loop-seed1", "loop-seed2"]
    assert [tracker.tags[0] for tracker in driver.trackers] == [{"mlflow.parentRunId": "fake-id"}] * 3
    assert len({each["digest"] for each in result.results}) == 3, "the seeds differ"
    [score] = result.scores
    assert (score.metric, score.before, score.after) == ("loss", 1.0, (0.1, 0.2, 0.4))
    mean, std = 0.7 / 3, np.std([0.1, 0.2, 0.4], ddof=1)
    assert score.mean == pytest.approx(mean)
    assert score.interval == pytest.approx(4.3027 * std / math.sqrt(3))
    assert parents[0].metrics[3]["final_test.inductive.loss"] == pytest.approx(mean)
    assert parents[0].status == "FINISHED"
    assert result.to_json()["seeds"] == 3
    assert result.rows()[0]["each seed"] == "0.1000 0.2000 0.4000"


def test_finished_seeds_are_not_run_again(driver: Driver, parents: list[FakeTracker]) -> None:
    def fail(call: Call) -> Any:
        raise WorkerError("shard 0 failed")

    first = seed_run.train

    def fail_at_seed_one(config: RunConfig, **options: Any) -> Any:
        if config.seed == 1:
            driver.compute = fail
            return driver.train(config, resume=options["resume"], anew=options["anew"])
        return first(config, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed_run, "train", fail_at_seed_one)
        with pytest.raises(WorkerError):
            run(driver)
    assert parents[0].status == "FAILED"
    with pytest.raises(UserError, match="there are checkpoints of loop-seed0, loop-seed1; allowed: --resume"):
        run(driver)
    driver.trackers.clear()
    result = run(driver, resume=True)
    assert [tracker.started[0][0] for tracker in driver.trackers] == ["loop-seed1", "loop-seed2"]
    assert parents[-1].started[0][:2] == ("loop", "fake-id"), "the same parent"
    driver.trackers.clear()
    assert run(driver, resume=True) == result
    assert driver.trackers == []


def test_a_seed_of_another_configuration_is_run_again(driver: Driver, parents: list[FakeTracker]) -> None:
    run(driver)
    driver.trackers.clear()
    longer = run(driver, steps=3, resume=True)
    assert len(driver.trackers) == 3
    assert [each["steps"] for each in longer.results] == [3, 3, 3]
    assert [each["steps"] for each in run(driver, anew=True).results] == [2, 2, 2]


def test_resuming_needs_a_seed_unless_automatic(driver: Driver, parents: list[FakeTracker]) -> None:
    with pytest.raises(UserError, match="there is no checkpoint of loop-seed0 or another seed"):
        run(driver, resume=True)
    assert len(run(driver, resume="auto").results) == 3


@pytest.mark.parametrize("seeds", [-1, 0, 1, 10**6])
def test_the_number_of_seeds_is_checked(driver: Driver, seeds: int) -> None:
    with pytest.raises(UserError, match="--seeds"):
        train_seeds(config(driver), seeds=seeds)


@pytest.mark.parametrize("at_once", [-1, 0, 4])
def test_the_number_at_a_time_is_checked(driver: Driver, parents: list[FakeTracker], at_once: int) -> None:
    with pytest.raises(UserError, match=f"--at-once: {at_once} seeds at a time; allowed: 1 to 3"):
        run(driver, at_once=at_once)
    assert parents == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """What is to be trained side by side: how many at a time, and which runs. They are trained in this process."""
    asked = []

    def train_side_by_side(runs: Mapping[int, SeedRun], at_once: int) -> dict[int, Mapping[str, Any]]:
        asked.append((at_once, [each.config.name for each in runs.values()]))
        return {seed: SeedRun.from_json(each.to_json()).train() for seed, each in reversed(runs.items())}

    monkeypatch.setattr(module, "train_side_by_side", train_side_by_side)
    return asked


def test_side_by_side_is_the_same_as_one_after_the_other(
    driver: Driver, parents: list[FakeTracker], asked: list[tuple[int, list[str]]]
) -> None:
    first = run(driver)
    assert asked == []
    driver.trackers.clear()
    again = run(driver, anew=True, at_once=2)
    assert asked == [(2, ["loop-seed0", "loop-seed1", "loop-seed2"])]
    assert [tracker.tags[0] for tracker in driver.trackers] == [{"mlflow.parentRunId": "fake-id"}] * 3
    assert (again.name, again.scores) == (first.name, first.scores)
    assert [each["name"] for each in again.results] == ["loop-seed0", "loop-seed1", "loop-seed2"]
    assert [each["digest"] for each in again.results] == [each["digest"] for each in first.results]


def test_only_seeds_that_are_not_finished_are_trained_side_by_side(
    driver: Driver, parents: list[FakeTracker], asked: list[tuple[int, list[str]]]
) -> None:
    result = run(driver)
    for seed in (0, 2):
        (driver.folder / f"loop-seed{seed}" / "result.json").unlink()
    resumed = run(driver, resume=True, at_once=3)
    assert asked == [(3, ["loop-seed0", "loop-seed2"])]
    assert resumed.results[1] == result.results[1]
    (driver.folder / "loop-seed1" / "result.json").unlink()
    run(driver, resume=True, at_once=3)
    assert len(asked) == 1, "a single one needs no process of its own"


@pytest.mark.parametrize(
    ("cores", "sections", "expected"),
    [
        (1, {}, None),
        (2, {}, 2),
        (64, {}, 3),
        (5, {"runtime": RuntimeConfig(executor="local", threads_per_worker=2)}, 2),
        (3, {"runtime": RuntimeConfig(executor="local", threads_per_worker=4)}, None),
        (64, {"runtime": RuntimeConfig(executor="local", device="cuda")}, None),
        (64, {"runtime": RuntimeConfig(executor="ray")}, None),
        (64, {"engine": EngineConfig(strategy="measured")}, None),
        (64, {"train": TrainConfig(steps=2, tasks_per_step=6, budget_s=60.0)}, None),
    ],
)
def test_as_many_at_a_time_as_there_is_room_for(
    driver: Driver,
    parents: list[FakeTracker],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    sections: dict[str, Any],
    expected: int | None,
) -> None:
    """`expected`: how many side by side; None where they are trained in this process."""
    monkeypatch.setattr(side_by_side, "num_cores", lambda: cores)
    found: list[int | None] = []

    def side(runs: Mapping[int, SeedRun], at_once: int) -> dict[int, Mapping[str, Any]]:
        found.append(at_once)
        return {seed: {"scores": []} for seed in runs}

    def alone(self: SeedRun) -> Mapping[str, Any]:
        found.append(None)
        return {"scores": []}

    monkeypatch.setattr(module, "train_side_by_side", side)
    monkeypatch.setattr(SeedRun, "train", alone)
    train_seeds(driver.config(**{"steps": 2, **sections}), seeds=3)
    assert set(found) == {expected}


def test_scores_that_are_not_finite_have_no_interval() -> None:
    def result(after: float | None) -> dict[str, Any]:
        return {"scores": [{"protocol": "inductive", "metric": "loss", "before": 1.0, "after": after}]}

    [score] = summarise_seeds([result(0.5), result(None)])
    assert math.isnan(score.mean) and math.isnan(score.interval)


def test_quantiles_are_those_of_student() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 61), 200, 1000):
        assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-4)
