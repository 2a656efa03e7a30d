"""Which configurations may resume a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distmeta import checkpoint
from distmeta.config import RunConfig
from distmeta.core.errors import UserError
from distmeta.server.outer import PARAMS
from distmeta.tasks.base import TaskSignature

SIGNATURE = TaskSignature(input_shape=(1, 28, 28), num_outputs=5, train_outputs={"query": 5}, objective="cross_entropy")
DEFAULT: dict[str, Any] = {"name": "run-1", "engine": {"strategy": "vmap", "chunk": 4, "memory": "unrolled"}}


def config_of(root: Path, **sections: dict[str, Any]) -> RunConfig:
    fields = {**DEFAULT, "checkpoint": {"path": str(root)}}
    for section, values in sections.items():
        fields[section] = {**fields.get(section, {}), **values}
    return RunConfig.model_validate(fields)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """Path of a checkpoint of `config_of(tmp_path)`."""
    return checkpoint.save(config_of(tmp_path), 3, {f"{PARAMS}w": torch.zeros(2)}, signature=SIGNATURE)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"runtime": {"workers": 3}},
        {"evaluation": {"final_tasks": 7}},
        {"checkpoint": {"keep_last": 9}},
        {"tracking": {"kind": "none"}},
        {"train": {"budget_s": 60.0, "log_every": 3}},
        {"outer": {"nonfinite": "drop"}},
        {"train": {"steps": 99_999}},
        {"engine": {"strategy": "auto", "chunk": None, "memory": "auto"}},
        {"engine": {"memory": "auto"}},
    ],
    ids=str,
)
def test_fields_that_do_not_change_the_parameters_may_differ(tmp_path: Path, saved: str, sections: Any) -> None:
    resumed = checkpoint.resumable(config_of(tmp_path, **sections))
    assert (resumed.path, resumed.step) == (saved, 3)


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"outer": {"lr": 0.5}}, "outer.lr"),
        ({"runtime": {"shard_size": 5}}, "runtime.shard_size"),
        ({"engine": {"strategy": "loop"}}, "engine.strategy"),
        ({"train": {"tasks_per_step": 5}}, "train.tasks_per_step"),
        ({"outer": {"schedule": "cosine"}, "train": {"steps": 99_999}}, "outer.schedule"),
    ],
    ids=str,
)
def test_fields_that_change_the_parameters_are_refused(tmp_path: Path, saved: str, sections: Any, field: str) -> None:
    with pytest.raises(UserError, match=rf"^{field}: is .* but the run to resume was started with .*; allowed: "):
        checkpoint.resumable(config_of(tmp_path, **sections))


def test_a_run_without_checkpoints_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--resume: there is no checkpoint of 'run-1' in "):
        checkpoint.resumable(config_of(tmp_path))
