"""Runs with several seeds, with fakes: what is run, what is left out, and the means over seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distmeta.config import EvaluationConfig, RunConfig
from distmeta.core.errors import UserError, WorkerError
from distmeta.program.scoring import ShardScores
from distmeta.training import seeds as module
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
    monkeypatch.setattr(module, "train", run)
    return parents


def config(driver: Driver, steps: int = 2) -> RunConfig:
    return driver.config(steps=steps, evaluation=EvaluationConfig(final_tasks=4))


def run(driver: Driver, steps: int = 2, **options: Any) -> SeedsResult:
    return train_seeds(config(driver, steps), seeds=3, **options)


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

    first = module.train

    def fail_at_seed_one(config: RunConfig, **options: Any) -> Any:
        if config.seed == 1:
            driver.compute = fail
            return driver.train(config, resume=options["resume"], anew=options["anew"])
        return first(config, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train", fail_at_seed_one)
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


def test_scores_that_are_not_finite_have_no_interval() -> None:
    def result(after: float | None) -> dict[str, Any]:
        return {"scores": [{"protocol": "inductive", "metric": "loss", "before": 1.0, "after": after}]}

    [score] = summarise_seeds([result(0.5), result(None)])
    assert math.isnan(score.mean) and math.isnan(score.interval)


def test_quantiles_are_those_of_student() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 61), 200, 1000):
        assert student_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-4)
