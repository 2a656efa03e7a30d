"""`distmeta train` from the command line to the checkpoint, in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distmeta.cli import main
from distmeta.config.load import load_config

JOB = """
from distmeta.config import *

def config() -> RunConfig:
    return RunConfig(
        name="waves",
        tasks=SinusoidTasks(shots=5, queries=5, eval_queries=10),
        model=MlpConfig(hidden=(8, 8)),
        algorithm=AlgorithmConfig(learner=GradientConfig(phases=(Phase(steps=2, lr=0.01),))),
        engine=EngineConfig(strategy="vmap"),
        runtime=RuntimeConfig(executor="local", shard_size=2),
        train=TrainConfig(steps=4, tasks_per_step=4, log_every=2),
        evaluation=EvaluationConfig(every=2, tasks=4, final_tasks=8),
        checkpoint=CheckpointConfig(path="runs", every=2),
        tracking=TrackingConfig(kind="none"),
    )
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waves.py").write_text(JOB)
    return "waves.py"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """What a command that succeeds prints to stdout and to stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    lines = run(capsys, *arguments, "--json")[0].splitlines()
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert isinstance(found, dict)
    return found


def test_train_evaluate_and_digest(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "train", job)
    assert {"run_id", "checkpoint", "digest", "steps", "tasks_per_s", "train_s", "meta_test"} <= result.keys()
    assert result["steps"] == 4
    assert result["tasks_per_s"] > 0
    assert result["train_s"] > 0
    assert (result["meta_test"]["tasks"], result["meta_test"]["points"]) == (8, [0, 1, 2])
    assert {"mean", "interval", "before", "after"} <= result["meta_test"].keys()
    assert Path(result["checkpoint"]).is_dir()
    assert run(capsys, "checkpoint", "digest", "runs/waves")[0].strip() == result["digest"]
    assert run_json(capsys, "checkpoint", "digest", result["checkpoint"])["digest"] == result["digest"]
    measured = run_json(capsys, "evaluate", "runs/waves", "--tasks", "8")
    assert measured == run_json(capsys, "evaluate", result["checkpoint"], "--tasks", "8")
    assert "loss" in run(capsys, "evaluate", "runs/waves", "--tasks", "4", "--set", "tasks.shots=3")[0]


def test_one_configuration_one_digest(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_json(capsys, "train", job)
    again = run_json(capsys, "train", job, "--set", "name=again", "--set", "evaluation.every=0")
    other = run_json(capsys, "train", job, "--set", "name=other", "--set", "seed=1")
    assert first["digest"] == again["digest"] != other["digest"]


def test_resume_goes_on_to_the_same_digest(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run_json(capsys, "train", job)
    run_json(capsys, "train", job, "--set", "name=half", "--set", "train.steps=2")
    resumed = run_json(capsys, "train", job, "--set", "name=half", "--resume")
    assert (resumed["steps"], resumed["digest"]) == (4, whole["digest"])


def test_people_read_lines_and_a_digest(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "train", job)
    assert run(capsys, "checkpoint", "digest", "runs/waves")[0].strip() in out
    assert "tasks_per_s" in out


def test_dry_run_prints_the_resolved_configuration(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, said = run(capsys, "train", job, "--dry-run", "--set", "outer.lr=3e-3")
    assert said == ""
    (tmp_path / "resolved.yaml").write_text(printed)
    assert load_config("resolved.yaml") == load_config(job, ["outer.lr=0.003"])
    assert run_json(capsys, "train", job, "--dry-run")["config"]["name"] == "waves"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resolved.yaml", "waves.py"]


@pytest.mark.parametrize(
    "command",
    [["evaluate"], *(pytest.param(["checkpoint", other], marks=pytest.mark.slow) for other in ("digest", "show"))],
)
def test_the_best_checkpoint_needs_a_validation_score(
    job: str, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    run_json(capsys, "train", job, "--set", "evaluation.every=0", "--set", "evaluation.final_tasks=0")
    with pytest.raises(SystemExit) as ended:
        main([*command, "runs/waves", "--which", "best"])
    assert ended.value.code == 2
    assert "runs/waves has a validation score; allowed: --which latest" in capsys.readouterr().err
    run_json(capsys, "train", job, "--anew")
    assert run_json(capsys, *command, "runs/waves", "--which", "best")


def test_a_dry_run_refuses_an_optimizer_that_does_not_exist(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", job, "--dry-run", "--set", "outer.optimizer=Adamm"])
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (2, "")
    assert "outer.optimizer: torch.optim has no optimizer 'Adamm'; allowed: did you mean 'Adam'" in captured.err


@pytest.mark.slow
def test_seeds_are_trained_resumed_and_summed_up(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "train", job, "--seeds", "2")
    assert [each["name"] for each in result["results"]] == ["waves-seed0", "waves-seed1"]
    [score] = result["scores"]
    assert score["mean"] == pytest.approx(sum(score["after"]) / 2)
    alone = run_json(capsys, "train", job, "--set", "seed=1", "--set", "name=alone")
    assert alone["digest"] == result["results"][1]["digest"]
    assert run_json(capsys, "train", job, "--seeds", "2", "--resume") == result
    out, _ = run(capsys, "train", job, "--seeds", "2", "--resume")
    assert "Student t" in " ".join(out.split()) and "2 seeds" in out


def test_the_first_line_comes_before_libraries_are_loaded(job: str) -> None:
    code = """
import builtins, sys
from distmeta.cli import main

def show(line, **options):
    loaded = {"torch", "mlflow", "pyarrow", "distmeta.cli.data"} & set(sys.modules)
    sys.stderr.write(f"{line} {loaded}")
    raise SystemExit

builtins.print = show
main(["train", "waves.py"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "reading waves.py set()"


def test_adapt_labels_images(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dark and light squares; the learner was trained for one step only, on prototypes of whole images."""
    from PIL import Image

    for name, shade in (("dark", 20), ("light", 220)):
        for role, jitter in (("labelled", 0), ("unsorted", 10)):
            folder = tmp_path / role / (name if role == "labelled" else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (shade + jitter,) * 3).save(folder / f"{name}.png")
    sets = ["tasks={source: glyphs, way: 2, size: 16, queries: 2, eval_queries: 2}", "model={kind: mlp, hidden: [4]}"]
    sets += ["algorithm={learner: {kind: prototype}}", "name=letters", "train.steps=1", "evaluation.final_tasks=0"]
    run_json(capsys, "train", job, *(part for each in sets for part in ("--set", each)))
    places = ["--support", "labelled", "--query", "unsorted"]
    found = run_json(capsys, "adapt", "runs/letters", *places, "--out", "labels.csv")
    assert found["labels"] == {"dark.png": "dark", "light.png": "light"}
    assert (tmp_path / "labels.csv").read_text().split() == ["file,label", "dark.png,dark", "light.png,light"]
    assert run_json(capsys, "adapt", "runs/letters", *places, "--invert")["labels"] == found["labels"]


def test_help_is_quick_to_import_and_complete() -> None:
    code = (
        "import sys\nfrom distmeta.cli import main\ntry:\n    main(['--help'])\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    for command in ("train", "evaluate", "adapt", "data", "checkpoint", "ui"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["data"], ["checkpoint"], ["train", "-h"], ["data", "import", "--help"]])
def test_help_of_every_level(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out, said = run(capsys, *arguments)
    assert out.startswith("Usage: distmeta")
    assert said == ""


def test_a_run_that_fails_on_the_way_says_so_in_one_line(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", job, "--set", "algorithm.learner.phases.0.lr=1e30"])
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
