"""The scripts on tiny sizes: they run to their end and write JSON and pictures."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.cluster.stragglers import ideal
from benchmarks.methods import intents, omniglot_curve, optimizers, pretraining, sinusoid, table, transfer
from benchmarks.scripts import CHECKOUT, load_job
from distmeta.config import RunConfig
from distmeta.data.store import write_store
from distmeta.methods import METHODS
from distmeta.program.scoring import Score
from distmeta.training import TrainResult, train
from distmeta.training.result import Evaluation


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    importlib.import_module(f"benchmarks.{name}").main()


def written(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["sleep", "throttle"])
def test_stragglers(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--shards", "8", "--steps", "4", "--shard-s", "0.02", "--shard-tasks", "1", "--slowdown", "4"]
    run(monkeypatch, "cluster.stragglers", "--ways", way, *sizes, "--out", str(tmp_path))
    cases = written(tmp_path, "stragglers")["cases"]
    assert [(case["way"], case["name"]) for case in cases] == [
        (way, name) for name in ("undisturbed", "slowed, copies", "slowed, no copies")
    ]
    assert all(len(case["seconds"]) == 4 for case in cases)
    assert len({case["digest"] for case in cases}) == 1
    assert cases[2]["copies"] == 0
    assert is_picture(tmp_path / f"stragglers_{way}_8.png")
    assert f"{way}, 8 shards a step: slowed, copies, as a multiple" in capsys.readouterr().out


def test_a_module_run_as_a_command_ends_with_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks.methods.table", "--methods", "maml", "--set", "train.step=1"]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith("error: --set train.step: unknown field 'step'; allowed: did you mean 'steps'")


def test_the_best_schedule_of_shards_that_cannot_be_divided() -> None:
    assert ideal(16, 8.0) == 6 / 4  # three workers compute 16 shards in six turns, the slow one none in less than eight
    assert ideal(24, 8.0) == 8 / 6
    assert ideal(4, 8.0) == 2 / 1
    assert ideal(16, 1.0) == 1


@pytest.mark.slow
def test_asynchronous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--runs", "sine_reptile", "--seconds", "0.5", "--workers", "2", "--share", "0.8", "--test-tasks", "5"]
    run(monkeypatch, "cluster.asynchronous", *sizes, "--out", str(tmp_path))
    cases = written(tmp_path, "asynchronous")["cases"]
    assert [case["name"] for case in cases] == [
        "synchronous",
        "asynchronous",
        "synchronous, one slow",
        "asynchronous, one slow",
    ]
    for case in cases:
        assert case["tasks_per_s"] > 0
        assert len(case["steps"]) == len(case["seconds"]) == len(case["score"])
    assert cases[0]["stale"] == cases[0]["staleness"] == 0
    assert is_picture(tmp_path / "asynchronous_sine_reptile.png")
    assert "sine_reptile: tasks/s kept with one slow worker" in capsys.readouterr().out


@pytest.mark.slow
def test_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--strategies", "loop", "--shards", "1", "--tasks", "2", "--rounds", "2", "--seconds", "0.05"]
    run(monkeypatch, "cluster.workers", *sizes, "--source", "glyphs", "--out", str(tmp_path))
    (cell,) = written(tmp_path, "workers")["cells"]
    assert {name: len(seconds) for name, seconds in cell["seconds"].items()} == {
        "local": 2,
        "ray 1": 2,
        "ray 2": 2,
        "barrier": 2,
    }
    assert set(cell["ratios"]) == {"ray 1 / local", "ray 2 / ray 1", "barrier / local"}
    assert "ray 2 / ray 1, loop, shards of 1:" in capsys.readouterr().out


def test_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--rows", "prototype", "--steps", "1", "--tasks", "1", "--draws", "1"]
    run(monkeypatch, "engine.precision", *sizes, "--out", str(tmp_path))
    policies = written(tmp_path, "precision")["rows"]["prototype"]
    assert policies["float32"]["error"] < 1e-4
    assert policies["float32"]["cosine"] == pytest.approx(1.0)
    assert all(result["seconds"] > 0 for result in policies.values())
    assert "| prototype | float32 |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_fine_tuning(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--epochs", "1", "--batch", "300", "--rounds", "1", "--optimizer", optimizer]
    run(monkeypatch, "engine.fine_tuning", *sizes, "--out", str(tmp_path))
    found = written(tmp_path, "fine_tuning")
    assert found["difference"] < 1e-3
    assert found["ratio"] > 0
    assert "share of the plain loop's" in capsys.readouterr().out


@pytest.mark.slow
def test_tradeoff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--inputs", "6", "--examples", "9", "--tasks", "2", "--l2sp", "0.5"]
    counts = ["--steps", "2", "40", "--cg-steps", "7", "--rounds", "1"]
    run(monkeypatch, "methods.tradeoff", *sizes, *counts, "--out", str(tmp_path))
    points = written(tmp_path, "tradeoff")["points"]
    errors = {(point["contender"], point["steps"]): point["error"] for point in points}
    peaks = {(point["contender"], point["steps"]): point["peak_mib"] for point in points}
    assert len(points) == 12
    for name in ("unrolled", "flat", "iMAML, gradient descent", "iMAML, Newton-CG"):
        assert errors[name, 40] < 1e-4 < errors[name, 2]
    assert errors["first order", 40] > 0.1
    assert peaks["unrolled", 40] > 3 * peaks["unrolled", 2]
    assert peaks["iMAML, gradient descent", 40] == pytest.approx(peaks["iMAML, gradient descent", 2], rel=0.05)
    assert is_picture(tmp_path / "tradeoff.png")
    assert "iMAML, Newton-CG" in capsys.readouterr().out


@pytest.mark.slow
def test_optimizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("train.steps=1", "train.tasks_per_step=2", "runtime.executor=local", "evaluation.final_tasks=0")
    small = ("algorithm.learner.steps=20", "evaluation.every=0", "tracking.kind=none", "tasks.size=3", "tasks.rows=6")
    runs = f"checkpoint.path={tmp_path}"
    train(load_job("learned_optimizers.py:quadratics", *changes, *small, runs), quiet=True)
    model = ("--model", "{kind: mlp, hidden: [2]}")
    sizes = ("--seeds", "3", "--rates", "7", "--out", str(tmp_path))
    run(monkeypatch, "methods.optimizers", str(tmp_path / "learned_optimizers_quadratics"), *model, *sizes)
    rows = written(tmp_path, "optimizers")["rows"]
    assert [row["optimizer"] for row in rows] == 2 * ["learned", "Adam", "Adam, cosine"]
    assert rows[1]["difference"] == {"mean": 0.0, "half": 0.0}
    assert (rows[1]["reached"], rows[1]["rate"] in [2.0**-k for k in range(7)]) == (3, True)
    assert rows[0]["final"]["mean"] > rows[1]["final"]["mean"]  # one step of training is not enough
    curves = written(tmp_path, "optimizers")["curves"]["as trained"]
    assert all(len(curve) == 21 for curve in curves.values())
    assert curves["learned"][0] == curves["Adam"][0] > curves["Adam"][-1]
    assert is_picture(tmp_path / "optimizers.png")
    assert "model {kind: mlp, hidden: [2]}" in capsys.readouterr().out


@pytest.mark.slow
def test_feature_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "tasks={source: glyphs, way: 3, shots: 1, queries: 1, eval_queries: 2, size: 16}"
    small = (tasks, "model.filters=4", "engine.strategy=vmap", "runtime.executor=local", f"checkpoint.path={tmp_path}")
    steps = ("train.steps=2", "evaluation.every=1", "checkpoint.every=1", "evaluation.final_tasks=6")
    arguments = [part for change in (*small, *steps) for part in ("--set", change)]
    arguments += ["--regimes", "maml", "multitask", "--analysis-tasks", "4", "--out", str(tmp_path)]
    run(monkeypatch, "methods.feature_reuse", *arguments)
    first = capsys.readouterr().out.splitlines()
    run(monkeypatch, "methods.feature_reuse", *arguments, "--seeds", "2")
    assert [line.split(" | ")[0] for line in first[-2:]] == ["| maml", "| multitask"]
    results = written(tmp_path, "feature_reuse_omniglot")["results"]
    assert {name: sorted(by_seed) for name, by_seed in results.items()} == {"maml": ["0", "1"], "multitask": ["0", "1"]}
    assert all("adapted" in one for one in results["maml"].values())
    assert "adapted" not in results["multitask"]["0"]
    folder = tmp_path / "feature_reuse_omniglot"
    frozen = [row["frozen"] for row in written(folder, "layers")["freezing"]]
    assert (frozen[0], frozen[-1], len(frozen)) == ("none", "all, no head (NIL)", 6)
    pairs = {(row["first"], row["second"]) for row in written(folder, "training")["training"]}
    assert len(pairs) >= 1
    assert written(folder, "seeds")["between"]
    assert all(is_picture(folder / f"{part}.png") for part in ("freezing", "adaptation", "training", "between"))


def test_intervals_of_intents_are_over_splits() -> None:
    def run(plain: float, others: float) -> dict[str, dict[str, dict[str, float]]]:
        values = {row: plain if "plain" in row else others for row in intents.ROWS}
        return {"scores": {row: {"1": value, "5": value} for row, value in values.items()}}

    lines = intents.table({"a/0": run(80, 90), "b/0": run(81, 91), "a/1": run(80, 92), "b/1": run(81, 93)})
    # Means of seeds are 91 and 92: 12.706 (Student's t, one degree of freedom) times 0.5.
    assert "| 91.50 ± 6.35 | 91.50 ± 6.35 | +11.00 ± 0.00 | +11.00 ± 0.00 |" in lines[4]
    assert "| 80.50 ± 6.35 |" in lines[3]


def test_steps_to_a_loss() -> None:
    curve = torch.tensor([3.0, 2.0, 2.5, 1.0])
    assert [optimizers.steps_to(curve, goal) for goal in (3.0, 2.2, 1.0, 0.5)] == [0, 1, 3, None]


def trained(config: RunConfig, *, accuracy: float = 0.9, **options: Any) -> TrainResult:
    """The result of a training run that has not taken place."""
    protocols = ("transductive", "inductive")
    scores = tuple(Score(name, "accuracy", (0, 1, 10), (0.2, 0.5, accuracy), (0.01,) * 3, 40) for name in protocols)
    evaluations = (Evaluation(500, 100.0, scores), Evaluation(900, 200.0, scores))
    return TrainResult(config.name, None, None, "", "", 1000, 250.0, 128.0, scores, "inductive", (), evaluations, {})


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(table, "train", trained)
    arguments = ["--out", str(tmp_path), "--tasks", "omniglot", "--methods"]
    run(monkeypatch, "methods.table", *arguments, "maml")
    monkeypatch.setattr(table, "train", lambda config, **options: trained(config, accuracy=0.8))
    run(monkeypatch, "methods.table", *arguments, "maml", "reptile", "--seeds", "2")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "| MAML | 85.0 ± 63.5 | 85.0 ± 63.5 | 2 | 1,000 | 128 |",
        "| Reptile | 80.0 ± 0.0 | 80.0 ± 0.0 | 2 | 1,000 | 128 |",
    ]
    results = written(tmp_path, "table")["results"]["omniglot"]
    assert {name: sorted(seeds) for name, seeds in results.items()} == {"maml": ["0", "1"], "reptile": ["0", "1"]}
    assert results["maml"]["1"]["name"] == "table_omniglot_maml_1"


@pytest.mark.parametrize(("tasks", "method"), [(tasks, name) for tasks, jobs in table.JOBS.items() for name in jobs])
def test_every_job_of_the_table_is_there(tasks: str, method: str) -> None:
    arguments = argparse.Namespace(seconds=1.0, set=[])
    config = load_job(table.JOBS[tasks][method], *table.changes(arguments, tasks, method, seed=0))
    assert config.algorithm.method == method or method == "multitask"


def test_methods_without_a_row_are_for_other_tasks() -> None:
    others = {"label_words", "weight_generator", "reweight", "oml", "anml", "learned_optimizer", "evolved_optimizer"}
    others |= {name for names in transfer.STRATEGIES.values() for name in names} - set(transfer.TITLES)
    others |= {"bn_adapt", "tent", "ttt", "deep_coral", "dann"}
    assert set(METHODS) - {name for jobs in table.JOBS.values() for name in jobs} == others


def test_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[RunConfig] = []

    def note(config: RunConfig, **options: Any) -> TrainResult:
        made.append(config)
        return replace(trained(config), checkpoint=f"runs/{config.name}/00001000")

    monkeypatch.setattr(transfer, "train", note)
    strategies = ["joint", "l2sp", "lp_ft"]
    arguments = ["--out", str(tmp_path), "--problems", "usps", "--strategies", *strategies, "--set", "train.steps=7"]
    run(monkeypatch, "methods.transfer", *arguments, "--seeds", "1")
    assert [(config.name, config.train.steps) for config in made] == [
        ("usps_joint_0", 7),
        ("usps_source_0", 7),
        ("usps_lp_ft_0", 0),
        ("usps_source_0", 7),  # goes on from its last checkpoint: nothing to do
        ("usps_l2sp_0", 0),
    ]
    assert made[2].train.init_from == made[4].train.init_from == "runs/usps_source_0/00001000"
    run(monkeypatch, "methods.transfer", *arguments, "--seeds", "2")
    assert {config.seed for config in made[5:]} == {1}
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| Joint training | 90.00 ± 0.00 | - | 2 |",
        "| LP-FT | 90.00 ± 0.00 | - | 2 |",
        "| L2-SP | 90.00 ± 0.00 | 89.74 ± 0.41 | 2 |",
    ]
    assert sorted(written(tmp_path, "transfer")["results"]["usps"]["l2sp"]) == ["0", "1"]
    assert "| L2-SP |" in (tmp_path / "transfer.md").read_text()
    assert is_picture(tmp_path / "transfer_usps.png")


def test_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[RunConfig] = []

    def note(config: RunConfig, **options: Any) -> TrainResult:
        made.append(config)
        return replace(trained(config), checkpoint=f"runs/{config.name}/00001000")

    monkeypatch.setattr(transfer, "train", note)
    arguments = ["--out", str(tmp_path), "--strategies", "target_only", "lp_ft"]
    run(monkeypatch, "methods.pretraining", *arguments, "--examples", "20", "100", "--seeds", "1")
    sizes = [(config.name, config.tasks.examples, config.train.steps) for config in made]
    assert sizes == [
        ("usps_target_only_20_0", 20, 1000),
        ("usps_target_only_100_0", 100, 1000),
        ("usps_source_0", 600, 3000),
        ("usps_lp_ft_20_0", 20, 0),
        ("usps_source_0", 600, 3000),
        ("usps_lp_ft_100_0", 100, 0),
    ]
    run(monkeypatch, "methods.pretraining", *arguments, "--examples", "20", "600", "--seeds", "2")
    assert len(made) == 6 + 3 + 6
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "| labelled examples | 20 | 100 | 600 |",
        "|---|---|---|---|",
        "| Target only | 10.00 ± 0.00 | 10.00 | 10.00 ± 0.00 |",
        "| LP-FT | 10.00 ± 0.00 | 10.00 | 10.00 ± 0.00 |",
    ]
    assert is_picture(tmp_path / "pretraining.png")
    run(monkeypatch, "methods.pretraining", "--out", str(tmp_path / "starts"), "--examples", "50", "--seeds", "1")
    assert [(config.name, config.train.steps) for config in made[-4:]] == [
        ("usps_from_scratch_50_0", 0),
        ("usps_self_supervised_50_0", 1000),
        ("usps_source_0", 3000),
        ("usps_fine_tuning_50_0", 0),
    ]
    assert pretraining.changes_of(20)[1:] == ["tasks.support=10", "tasks.queries=10"]


@pytest.mark.slow
@pytest.mark.parametrize("problem", transfer.IMAGES)
def test_every_strategy_of_transfer_runs(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("here", "there"):
        images = rng.integers(0, 256, (60, 1, 22, 22), dtype=np.uint8)
        parts = {"train": [15] * 3, "test": [5] * 3}
        write_store(tmp_path / name, images, class_names=list("abc"), class_counts=[20] * 3, parts=parts)
    target = tmp_path / ("there" if problem == "usps" else "here")
    small = [f"tasks.store={tmp_path / 'here'}", f"tasks.target={target}", "tasks.examples=12", "tasks.source_batch=4"]
    small += [
        "tasks.support=6",
        "tasks.queries=6",
        "model.filters=[4, 4, 4]",
        "train.steps=2",
        "runtime.executor=local",
    ]
    changes = [argument for change in small for argument in ("--set", change)]
    load = transfer.load_job

    def with_few_steps(name: str, *fields: str) -> RunConfig:
        phases = getattr(load(name, *fields).algorithm.learner, "phases", ())
        few = [f"algorithm.learner.phases.{i}.steps={min(phase.steps, 2)}" for i, phase in enumerate(phases)]
        return load(name, *fields, *few)

    monkeypatch.setattr(transfer, "load_job", with_few_steps)
    run(monkeypatch, "methods.transfer", "--problems", problem, "--seeds", "1", "--out", str(tmp_path), *changes)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(transfer.STRATEGIES[problem])
    assert ("lower half masked" in rows[0]) == (problem == "signature")
    assert not any(cell == "-" for row in rows[1:] for cell in row.split(" | ")[1:2])


def test_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(omniglot_curve, "train", trained)
    run(monkeypatch, "methods.omniglot_curve", "--out", str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5] == "  103 s: 90.0 +- 1.0 % (scored at 100 s), reference 89.8 %"
    assert "(scored at 200 s)" in lines[-4]
    points = written(tmp_path, "omniglot_curve")["points"]
    assert [(point["step"], point["inductive"]["accuracy"]) for point in points] == [(500, 90.0), (900, 90.0)]
    assert is_picture(tmp_path / "omniglot_curve.png")


def test_sinusoid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sinusoid, "train", trained)
    run(monkeypatch, "methods.sinusoid", "--out", str(tmp_path))
    row = "0.200 ± 0.010 | 0.500 ± 0.010 | 0.900 ± 0.010 | 1,000 | 250 |"
    assert [line for line in capsys.readouterr().out.splitlines() if row in line] == [
        f"| MAML | {row}",
        f"| pre-trained | {row}",
    ]
    assert set(written(tmp_path, "sinusoid")["results"]) == {"MAML", "pre-trained"}
    assert is_picture(tmp_path / "sinusoid.png")
