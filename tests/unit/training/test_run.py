"""The driver's loop: what is logged, evaluated and saved at which step. Executor and tracker are fakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint import StoreError
from distmeta.config import (
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.core.errors import DistmetaError, UserError, WorkerError
from distmeta.core.tensors import digest
from distmeta.engine.auto import Choice
from distmeta.runtime.executor import Incident
from distmeta.tracking.base import MetricPoint
from distmeta.training import loop
from distmeta.training import run as module

from ...fakes_training import Call, FakeTracker, constant_update
from .conftest import EVERYTHING, Driver, handle


def test_metrics_are_logged_at_the_first_the_last_and_every_third_step(driver: Driver) -> None:
    result = driver.train()
    tracker, executor = driver.trackers[0], driver.executors[0]
    assert sorted(tracker.metrics) == [1, 3, 6, 7]
    for metrics in tracker.metrics.values():
        assert metrics["train/loss"] == 2.0
        assert metrics["outer.lr"] == 0.1
        assert metrics["outer.grad_norm"] == pytest.approx(13**0.5), "ones for 4 + 4 + 4 + 1 parameters"
        assert metrics["system/workers"] == 1.0
        assert {"system/tasks_per_s", "system/train_s", "system/data_wait_share", "system/worker_busy_share"} <= set(
            metrics
        )
        for name in ("restarts", "retries", "copies", "checkpoint_failures"):
            assert metrics[f"system/{name}"] == 0.0
    assert len(executor.calls) == 7 * 2, "two shards a step"
    assert tracker.started == [("loop", None, [])]
    assert tracker.status == "FINISHED"
    assert executor.closed
    assert (result.name, result.run_id, result.address, result.steps) == ("loop", "fake-id", "fake://run", 7)
    assert result.tasks_per_s == pytest.approx(7 * 6 / result.train_s)


def test_the_parameters_are_those_of_the_steps(driver: Driver) -> None:
    result = driver.train()
    loaded = checkpoints.load(result.checkpoint)
    start = module.MetaProgram(driver.config()).algorithm.learner.init(0)
    assert result.digest == digest(loaded.params)
    for name, tensor in loaded.params.items():
        torch.testing.assert_close(tensor, start[name] - 7 * 0.1)


def test_evaluations_are_due_at_every_second_and_at_the_last_step(driver: Driver) -> None:
    config = driver.config(evaluation=EvaluationConfig(every=2, tasks=5, final_tasks=9))
    result = driver.train(config)
    assert driver.evaluated() == [("val", 5, 2), ("val", 5, 4), ("val", 5, 6), ("val", 5, 7), ("test", 9, 7)]
    assert driver.logged == {
        1: {"train", "outer", "system"},
        2: {"val", "system"},
        3: {"train", "outer", "system"},
        4: {"val", "system"},
        6: {"train", "outer", "system", "val"},
        7: {"train", "outer", "system", "val", "final_test"},
    }
    metrics = driver.trackers[0].metrics
    assert metrics[4]["val/inductive/loss_before"] == 3.0
    assert metrics[4]["val/inductive/loss"] == 2.0**-4
    assert metrics[4]["val/inductive/loss_ci95"] == 0.0
    assert metrics[7]["final_test.inductive.loss"] == 2.0**-7
    assert [(each.step, each.scores[0].mean[-1]) for each in result.evaluations] == [
        (step, 2.0**-step) for step in (2, 4, 6, 7)
    ]
    assert [(score.metric, score.tasks, score.mean) for score in result.scores] == [("loss", 9, (3.0, 2.0**-7))]


def test_the_averaged_parameters_are_evaluated(driver: Driver) -> None:
    outer = OuterConfig(optimizer="SGD", lr=0.1, average=0.9)
    result = driver.train(driver.config(outer=outer, evaluation=EvaluationConfig(final_tasks=4)))
    [call] = [call for call in driver.executors[0].calls if call.work.name == "evaluate"]
    loaded = checkpoints.load(result.checkpoint)
    assert digest(call.snapshot.params) == digest(loaded.averaged) != digest(loaded.params)
    assert digest(driver.pictures[0][1]) == digest(loaded.averaged)


def test_checkpoints_are_due_at_the_start_at_every_fifth_at_evaluated_and_at_the_last_step(driver: Driver) -> None:
    config = driver.config(
        evaluation=EvaluationConfig(every=3, final_tasks=0),
        checkpoint=CheckpointConfig(path=str(driver.folder), every=5, keep_last=EVERYTHING),
    )
    result = driver.train(config)
    # The score of a loss is its negative: higher is better.
    assert driver.saved() == {0: None, 3: -(2.0**-3), 5: None, 6: -(2.0**-6), 7: -(2.0**-7)}
    assert result.checkpoint == str(driver.folder / "loop" / "step-00000007")


def test_a_checkpoint_holds_what_a_resumed_run_needs(driver: Driver) -> None:
    config = driver.config(steps=2)
    points = [MetricPoint("train/loss", 2.0, 5, 1)]
    driver.monkeypatch.setattr(FakeTracker, "pending", lambda tracker: points)
    result = driver.train(config)
    loaded = checkpoints.load(result.checkpoint)
    assert loaded.run_id == "fake-id"
    assert loaded.progress == {"train_s": pytest.approx(result.train_s), "tasks": 12.0}
    assert loaded.signature == module.MetaProgram(config).source.signature
    assert checkpoints.pending(result.checkpoint) == points


def test_a_failing_store_delays_the_checkpoint_and_does_not_end_the_run(driver: Driver) -> None:
    save = checkpoints.save

    def fail_at_step_two(config: RunConfig, step: int, *arguments: Any, **options: Any) -> str:
        if step == 2:
            raise StoreError("the disk is full", "runs", OSError("no space"))
        return save(config, step, *arguments, **options)

    driver.monkeypatch.setattr(checkpoints, "save", fail_at_step_two)
    config = driver.config(steps=4, checkpoint=CheckpointConfig(path=str(driver.folder), every=2, keep_last=EVERYTHING))
    result = driver.train(config)
    assert driver.saved() == {0: None, 4: None}
    assert result.checkpoint.endswith("step-00000004")
    assert driver.trackers[0].metrics[4]["system/checkpoint_failures"] == 1.0


class Clock(SimpleNamespace):
    """Replaces `time`: every reading is one second later."""

    def __init__(self) -> None:
        super().__init__(now=0.0)

    def perf_counter(self) -> float:
        self.now += 1.0
        return float(self.now)


def test_a_budget_ends_the_run_as_the_last_step_would(driver: Driver) -> None:
    driver.monkeypatch.setattr(loop, "time", Clock())
    config = driver.config(
        train=TrainConfig(steps=50, tasks_per_step=6, log_every=50, budget_s=4.0),
        evaluation=EvaluationConfig(every=50, final_tasks=0),
    )
    result = driver.train(config)
    assert (result.steps, result.train_s, result.tasks_per_s) == (4, 4.0, 6.0)
    assert driver.logged == {1: {"train", "outer", "system"}, 4: {"train", "outer", "system", "val"}}
    assert driver.saved() == {0: None, 4: -(2.0**-4)}
    metrics = driver.trackers[0].metrics[4]
    assert metrics["system/train_s"] == 4.0
    # Three steps of one second since the last log: 18 tasks; 0.5 s of computation and 0.25 s of waiting a shard.
    assert metrics["system/tasks_per_s"] == pytest.approx(6.0)
    assert metrics["system/worker_busy_share"] == pytest.approx(2 * 0.5)
    assert metrics["system/data_wait_share"] == pytest.approx(2 * 0.25)


def resumable(driver: Driver, steps: int = 4) -> loop.TrainResult:
    """A run of some steps that goes on for seven."""
    return driver.train(driver.config(steps=steps))


def test_a_resumed_run_continues_steps_times_and_counts(driver: Driver) -> None:
    driver.monkeypatch.setattr(loop, "time", Clock())
    first = resumable(driver)
    result = driver.train(driver.config(steps=7), resume=True)
    assert (first.train_s, result.train_s, result.steps) == (4.0, 7.0, 7)
    assert result.tasks_per_s == 6.0
    assert [call.snapshot.version for call in driver.executors[1].calls] == [4, 4, 5, 5, 6, 6]
    assert [call.shard.specs[0].index for call in driver.executors[1].calls] == [0, 4] * 3
    assert driver.trackers[1].started == [("loop", "fake-id", [])]
    assert (first.counts.get("resumes", 0), result.counts["resumes"]) == (0, 1)
    again = driver.train(driver.config(steps=8), resume="auto")
    assert again.counts["resumes"] == 2

    straight = driver.train(driver.config(steps=8, checkpoint=CheckpointConfig(path=str(driver.folder / "straight"))))
    assert again.digest == straight.digest


def test_a_finished_run_can_be_resumed(driver: Driver) -> None:
    first = resumable(driver)
    again = driver.train(driver.config(steps=4), resume=True)
    assert (again.digest, again.checkpoint, again.steps) == (first.digest, first.checkpoint, 4)
    assert driver.executors[1].calls == []


def test_resuming_needs_a_checkpoint_unless_automatic(driver: Driver) -> None:
    with pytest.raises(UserError, match="no checkpoint of 'loop'"):
        driver.train(resume=True)
    assert driver.train(driver.config(steps=1), resume="auto").steps == 1


def test_a_run_with_checkpoints_is_not_replaced_unasked(driver: Driver) -> None:
    first = resumable(driver)
    with pytest.raises(UserError, match=r"^name: the run 'loop' has checkpoints"):
        driver.train()
    assert driver.saved() == {0: None, 4: None}
    second = driver.train(driver.config(steps=2), anew=True)
    assert driver.saved() == {0: None, 2: None}
    assert driver.saved("loop~1") == {0: None, 4: None}
    assert first.digest != second.digest


def test_auto_uses_the_shapes_and_measured_asks_a_worker(driver: Driver) -> None:
    choice = Choice("vmap", 3, "flat", {"vmap": 0.1}, {}, 0.5)
    driver.compute = lambda call: choice if call.work.name == "choose" else handle(call)
    for strategy, chosen in (("auto", {"vmap"}), ("measured", {"vmap"})):
        config = driver.config(steps=2, engine=EngineConfig(strategy=strategy)).model_copy(update={"name": strategy})
        result = driver.train(config)
        updates = [call.work.engine for call in driver.executors[-1].calls if call.work.name == "update"]
        assert {engine.strategy for engine in updates} == chosen
        assert checkpoints.load(result.checkpoint).config.engine == updates[0]
    timed = [call for call in driver.executors[-1].calls if call.work.name == "choose"]
    assert [(call.shard.index, call.snapshot.version) for call in timed] == [(0, 0)]
    assert (updates[0].chunk, updates[0].memory) == (3, "flat")
    assert driver.trackers[-1].metrics[0] == {"system/engine_choice_s": 0.5}

    driver.train(
        driver.config(engine=EngineConfig(strategy="measured")).model_copy(update={"name": "measured"}), resume=True
    )
    assert {call.work for call in driver.executors[-1].calls} == {
        replace(timed[0].work, name="update", engine=updates[0])
    }


def test_incidents_are_logged_counted_and_kept_over_a_resume(driver: Driver) -> None:
    def incident_at(step: int) -> Callable[[Call], Any]:
        def compute(call: Call) -> Any:
            if (call.snapshot.version, call.shard.index) == (step, 1):
                driver.executors[-1].record(
                    Incident("worker_died", 2, "node-a", 1, "killed", "restart", "Traceback ...")
                )
                driver.executors[-1].counts["restarts"] += 1
            return handle(call)

        return compute

    driver.compute = incident_at(0)
    first = resumable(driver)
    assert (first.counts["worker_died"], first.counts["restarts"]) == (1, 1)
    assert driver.trackers[0].metrics[1]["system/restarts"] == 1.0
    kept = {"incidents/from-step-00000000-0.jsonl", "workers/worker-2.txt", "workers/now.json"}
    assert set(driver.trackers[0].texts) == kept
    driver.compute = incident_at(5)
    second = driver.train(driver.config(steps=7), resume=True)
    assert (second.counts["worker_died"], second.counts["restarts"], second.counts["resumes"]) == (2, 2, 1)
    assert "incidents/from-step-00000004-0.jsonl" in driver.trackers[1].texts


def test_a_nonfinite_update_ends_the_run_or_is_dropped(driver: Driver) -> None:
    def nonfinite(call: Call) -> Any:
        at_fault = (call.snapshot.version, call.shard.index) == (2, 1)
        return constant_update(call, float("nan") if at_fault else 1.0)

    driver.compute, driver.workers = nonfinite, 2
    with pytest.raises(DistmetaError, match="the update of shard 1 is nonfinite"):
        driver.train()
    assert driver.trackers[0].status == "FAILED"
    assert driver.executors[0].closed
    assert driver.saved() == {0: None}

    outer = OuterConfig(optimizer="SGD", lr=0.1, nonfinite="drop")
    result = driver.train(driver.config(outer=outer), anew=True)
    assert {name: result.counts[name] for name in ("nonfinite", "retries", "dropped")} == {
        "nonfinite": 2,
        "retries": 1,
        "dropped": 1,
    }
    assert driver.trackers[1].metrics[3]["outer.dropped"] == 1.0
    assert result.steps == 7


def test_a_worker_error_closes_executor_and_tracker(driver: Driver) -> None:
    def fail(call: Call) -> Any:
        raise WorkerError("shard 0 failed 4 times")

    driver.compute = fail
    before = torch.get_num_threads()
    with pytest.raises(WorkerError, match="shard 0 failed"):
        driver.train(
            driver.config(runtime=RuntimeConfig(executor="local", shard_size=4, threads_per_worker=before + 1))
        )
    assert (driver.executors[0].closed, driver.trackers[0].status) == (True, "FAILED")
    assert torch.get_num_threads() == before
    assert driver.saved() == {0: None}, "so that it can be resumed"


@pytest.mark.parametrize("model", [False, True])
def test_a_finished_run_keeps_pictures_and_its_model(driver: Driver, model: bool) -> None:
    result = driver.train(
        driver.config(evaluation=EvaluationConfig(final_tasks=4), tracking=TrackingConfig(model=model))
    )
    [(_, _, final_scores, protocol, tracker, folder)] = driver.pictures
    assert (final_scores, protocol) == (list(result.scores), "inductive")
    assert tracker is driver.trackers[0]
    assert folder == driver.folder / "loop" / "pictures"
    assert result.pictures == ("picture.png",)
    assert tracker.models == (["step-00000007"] if model else [])


@pytest.mark.parametrize(("kind", "events"), [("mlflow", ["load", "start", "join"]), ("none", ["start"])])
def test_libraries_of_plots_are_loaded_while_the_store_is_opened(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, kind: str, events: list[str]
) -> None:
    seen: list[str] = []
    start = FakeTracker.start

    def load_ahead() -> Any:
        seen.append("load")
        return SimpleNamespace(join=lambda: seen.append("join"))

    def started(self: FakeTracker, *arguments: Any) -> str:
        seen.append("start")
        return start(self, *arguments)

    monkeypatch.setattr(module.plots, "load_ahead", load_ahead)
    monkeypatch.setattr(FakeTracker, "start", started)
    driver.train(driver.config(tracking=TrackingConfig.model_validate({"kind": kind, "model": False})))
    assert seen == events


def test_asynchronous_runs_pause_for_evaluations(driver: Driver) -> None:
    driver.workers = 2
    outer = OuterConfig(optimizer="SGD", lr=0.1, staleness=2)
    config = driver.config(steps=4, outer=outer, evaluation=EvaluationConfig(every=2, tasks=5, final_tasks=0))
    result = driver.train(config)
    assert (result.steps, driver.evaluated()) == (4, [("val", 5, 2), ("val", 5, 4)])
    updates = [call.shard.index for call in driver.executors[0].calls if call.work.name == "update"]
    assert updates == list(range(8)), "no shard is lost or computed twice without need"
    specs = [call.shard.specs for call in driver.executors[0].calls if call.work.name == "update"]
    assert specs == [shard.specs for step in range(4) for shard in shards_of(config, step)]

    resumed = driver.train(config.model_copy(update={"train": TrainConfig(steps=6, tasks_per_step=6)}), resume=True)
    specs = [call.shard.specs for call in driver.executors[1].calls if call.work.name == "update"]
    assert specs[:4] == [shard.specs for step in (4, 5) for shard in shards_of(config, step)]
    assert resumed.steps == 6


def shards_of(config: RunConfig, step: int) -> Sequence[Any]:
    source = module.MetaProgram(config).source
    return source.shards("train", step, config.train.tasks_per_step, config.runtime.shard_size)
