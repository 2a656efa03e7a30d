"""A transformer from `distmeta train` to a folder of the package peft, and from there into another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distmeta.checkpoint import load
from distmeta.cli import main

JOB = """
from distmeta.config import *
from distmeta.config.models import TransformerConfig
from distmeta.config.petl import LoraConfig

def config() -> RunConfig:
    return RunConfig(
        name="glyphs",
        tasks=GlyphTasks(way=2, shots=1, queries=1, size=8),
        model=TransformerConfig(
            architecture={
                "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                "intermediate_size": 12, "image_size": 8, "patch_size": 4, "num_channels": 1,
            },
            petl=(LoraConfig(rank=2, alpha=4.0),),
            inputs="pixels",
        ),
        algorithm=AlgorithmConfig(learner=GradientConfig(phases=(Phase(steps=1, lr=0.01),))),
        engine=EngineConfig(strategy="vmap"),
        runtime=RuntimeConfig(executor="local", shard_size=2),
        train=TrainConfig(steps=2, tasks_per_step=2, log_every=1),
        evaluation=EvaluationConfig(every=1, tasks=2, final_tasks=2),
        checkpoint=CheckpointConfig(path="runs", every=1),
        tracking=TrackingConfig(kind="none"),
    )
"""


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    assert "Traceback" not in captured.out + captured.err
    return captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that is refused."""
    lines = [line for line in run(capsys, arguments, 2)[1].splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs.py").write_text(JOB)
    return "glyphs.py"


def test_a_run_is_exported_and_begins_another(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, ["train", job])
    out, _ = run(capsys, ["checkpoint", "export", "runs/glyphs", "--peft", "out", "--json"])
    told: dict[str, Any] = json.loads(out)
    assert (told["folder"], told["step"]) == ("out", 2)
    assert told["files"] == ["README.md", "adapter_config.json", "adapter_model.safetensors", "heads.safetensors"]
    found = load("runs/glyphs")
    tensors = load_file("out/adapter_model.safetensors")
    parts = {name: tensor for name, tensor in found.params.items() if not name.startswith("head")}
    assert tensors.keys() == {f"base_model.model.{name}.weight" for name in parts}
    assert all(torch.equal(tensors[f"base_model.model.{name}.weight"], tensor) for name, tensor in parts.items())
    card = Path("out/README.md").read_text()
    assert "glyphs" in card and found.digest in card and str(found.score) in card and "`vit`" in card

    start = ["--set", "model.init_from=out", "--set", "name=second", "--set", "outer.lr=1e-30"]
    run(capsys, ["train", job, *start])
    second = load("runs/second").params
    assert all(torch.equal(second[name], tensor) for name, tensor in parts.items())
    shutil.rmtree("out")  # the checkpoint has the values
    run(capsys, ["evaluate", "runs/second", "--tasks", "2"])
    without = [*start[2:], "--set", "train.steps=3", "--resume"]
    run(capsys, ["train", job, *without])
    assert "there is no folder 'out'" in refused(capsys, "train", job, *start, "--anew")


def test_what_cannot_be_exported_is_told_in_one_line(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = ["--set", 'model.petl=[{"kind": "adapter", "width": 2}]', "--set", "train.steps=1"]
    run(capsys, ["train", job, *adapter])
    line = refused(capsys, "checkpoint", "export", "runs/glyphs", "--peft", "out")
    assert "'adapter' has no counterpart in peft" in line and not Path("out").exists()
    sinusoid = ["--set", "tasks.source=sinusoid", "--set", "model={kind: mlp}", "--set", "name=waves"]
    run(capsys, ["train", job, *sinusoid, "--set", "train.steps=1"])
    line = refused(capsys, "checkpoint", "export", "runs/waves", "--peft", "out")
    assert "runs/waves: its network is of kind 'mlp'" in line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.petl.0.targets=[query, valeu]", ("model.petl.0.targets.1", "did you mean 'value'?")),
        ("model.petl.0.layers=[2]", ("model.petl.0.layers: there is no block 2; allowed: 0 to 1",)),
        ("model.architecture.model_type=vti", ("model.architecture", "Unrecognized model identifier: vti")),
        ("tasks.size=16", ("takes images [1, 8, 8], but the tasks have [1, 16, 16]",)),
        ("model.petl=[{kind: ia3}, {kind: ia3}]", ("two parts have parameter",)),
        ("model.petl=[{kind: lara}]", ("model.petl.0", "'lora'")),
        ("model.inputs=words", ("model.inputs", "allowed: pixels, tokens")),
    ],
)
def test_wrong_fields_are_told_in_one_line(
    job: str, capsys: pytest.CaptureFixture[str], change: str, expected: tuple[str, ...]
) -> None:
    line = refused(capsys, "train", job, "--set", change)
    for part in expected:
        assert part in line
    assert not Path("runs/glyphs").exists()
