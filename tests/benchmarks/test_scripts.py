"""The scripts on tiny sizes: they run to their end and write JSON and pictures."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cluster.stragglers import ideal
from benchmarks.methods import intents, omniglot_curve, optimizers, sinusoid
from benchmarks.scripts import CHECKOUT, load_job
from distmeta.config import RunConfig
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
    command = [sys.executable, "-m", "benchmarks.methods.sinusoid", "--set", "train.step=1"]
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
