"""Runs that start from another run's checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distmeta import checkpoint as checkpoints
from distmeta.config import (
    AlgorithmConfig,
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    GlyphTasks,
    MlpConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.config.load import change
from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.methods import maml, pretrain, weight_generator
from distmeta.program.program import MetaProgram
from distmeta.training import train
from distmeta.training.start import initial

BODY = ("block1.weight", "block1.bias")


def config(folder: Path, name: str, algorithm: AlgorithmConfig, **fields: Any) -> RunConfig:
    return RunConfig(
        name=name,
        seed=len(name),
        tasks=GlyphTasks(way=3, shots=1, queries=2, eval_queries=2, size=8),
        model=fields.pop("model", MlpConfig(hidden=(6,))),
        algorithm=algorithm,
        outer=OuterConfig(optimizer="AdamW", lr=0.1, average=0.5, options={"weight_decay": 0.1}),
        engine=EngineConfig(strategy="vmap"),
        train=TrainConfig(steps=2, tasks_per_step=3, **fields),
        runtime=RuntimeConfig(executor="local", shard_size=2),
        evaluation=EvaluationConfig(every=0, final_tasks=0),
        checkpoint=CheckpointConfig(path=str(folder)),
        tracking=TrackingConfig(kind="none"),
    )


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that has trained a body with a head of 256 classes."""
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
    return train(config(tmp_path, "before", pretrain()), quiet=True).checkpoint


def start_of(config: RunConfig) -> Params:
    program = MetaProgram(config)
    try:
        return initial(config, program.algorithm.learner)[0]
    finally:
        program.close()


def test_the_body_is_that_of_the_checkpoint_and_what_does_not_fit_is_new(before: str, tmp_path: Path) -> None:
    found = checkpoints.load(before).averaged
    start = start_of(config(tmp_path, "after", maml(), init_from=before))
    new = start_of(config(tmp_path, "after", maml()))
    assert all(torch.equal(start[name], found[name]) for name in BODY)
    assert not torch.equal(start["block1.weight"], new["block1.weight"])
    assert torch.equal(start["head.weight"], new["head.weight"])
    assert found["head.weight"].shape != new["head.weight"].shape


def test_a_fixed_body_does_not_move_and_is_part_of_the_checkpoint(before: str, tmp_path: Path) -> None:
    """Weight decay would move whatever has a gradient, even of zeros."""
    result = train(config(tmp_path, "generator", weight_generator(width=4), init_from=before), quiet=True)
    trained, found = checkpoints.load(result.checkpoint), checkpoints.load(before).averaged
    for params in (trained.params, trained.averaged):
        assert all(torch.equal(params[name], found[name]) for name in BODY)
        assert bool(params["generator.net.2.weight"].any())


def test_a_resumed_run_does_not_need_what_it_started_from(before: str, tmp_path: Path) -> None:
    started = config(tmp_path, "after", maml(), init_from=before)
    digest = train(change(started, ["train.steps=3"]), quiet=True).digest
    again = change(started, ["name=again"])
    train(again, quiet=True)
    shutil.rmtree(tmp_path / "before")
    assert train(change(again, ["train.steps=3"]), resume=True, quiet=True).digest == digest
    with pytest.raises(UserError, match="no such file or folder"):
        train(started, anew=True, quiet=True)


def test_another_network_is_refused(before: str, tmp_path: Path) -> None:
    other = config(tmp_path, "after", maml(), init_from=before, model=MlpConfig(hidden=(6, 5)))
    with pytest.raises(UserError, match=r"no 'block2.weight', which the network has as \[5, 6\]"):
        start_of(other)
    with pytest.raises(UserError, match=r"'block1.weight' \[6, 64\], which the network has as \[7, 64\]"):
        start_of(config(tmp_path, "after", maml(), init_from=before, model=MlpConfig(hidden=(7,))))


def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"algorithm.fixed: unknown parameter group 'bdoy'"):
        MetaProgram(config(tmp_path, "x", weight_generator(fixed=("bdoy",))))
