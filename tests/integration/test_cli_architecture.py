"""`distmeta checkpoint architecture`: the weights of a trained network's operations, and the choice as a setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distmeta.cli.app import run

JOB = """
from distmeta import methods
from distmeta.config import *

def config():
    return RunConfig(
        name="cells",
        tasks=GlyphTasks(way=2, shots=1, queries=1, eval_queries=1, size=8),
        model=MixedConfig(filters=2, cells=1, operations=("zero", "skip", "conv1x1")),
        algorithm=methods.darts(steps=1),
        outer=OuterConfig(lr=0.5),
        engine=EngineConfig(strategy="loop"),
        train=TrainConfig(steps=2, tasks_per_step=2),
        runtime=RuntimeConfig(executor="local", shard_size=2),
        evaluation=EvaluationConfig(every=0, final_tasks=0),
        tracking=TrackingConfig(kind="none"),
    )
"""


def test_the_choice_is_a_setting_for_a_run_of_the_chosen_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
    (tmp_path / "cells.py").write_text(JOB)
    assert run(["train", "cells.py"]) == 0
    capsys.readouterr()
    assert run(["checkpoint", "architecture", "runs/cells", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["edges"], told["step"]) == (["0 -> 1", "0 -> 2", "1 -> 2"], 2)
    assert all(sum(weights.values()) == pytest.approx(1) for weights in told["weights"])
    assert told["chosen"] == [max(weights, key=weights.get) for weights in told["weights"]]
    assert run(["checkpoint", "architecture", "runs/cells"]) == 0
    setting = capsys.readouterr().out.splitlines()[-1]
    assert setting == f"--set model.chosen=[{','.join(told['chosen'])}]"

    assert run(["train", "cells.py", *setting.split(), "--set", "name=chosen"]) == 0
    assert run(["checkpoint", "architecture", "runs/chosen"]) == 2
    assert "runs/chosen: its operations are chosen" in capsys.readouterr().err
    assert run(["train", "cells.py", "--set", "model.chosen=[skip]", "--set", "name=few"]) == 2
    assert "chosen has 1 operations for the 3 edges of 2 nodes" in capsys.readouterr().err
