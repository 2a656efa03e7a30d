"""What a user's task source builds, against what its configuration declares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from distmeta.config import MlpConfig, RunConfig, RuntimeConfig, TrainConfig
from distmeta.config.python import PythonTasks
from distmeta.core.errors import UserError
from distmeta.core.seeding import Uint64
from distmeta.core.types import QUERY, SUPPORT, Batch
from distmeta.tasks import TaskSource, build_source
from distmeta.tasks import base as module

TARGET = f"{Path(__file__)}:Growing"


class Growing(TaskSource):
    """Three support points and four queries, twice as many outside of training."""

    input_shape, num_outputs, objective = (1,), 1, "mse"
    train_outputs = {SUPPORT: 1, QUERY: 1}  # noqa: RUF012

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def batches(self, split: str, seeds: Uint64, roles: Sequence[str]) -> dict[str, Batch]:
        factor = 1 if split == "train" else 2
        counts = {SUPPORT: 3 * factor, QUERY: 4 * factor}
        points = {role: torch.zeros(len(seeds), counts[role], 1, dtype=self._dtype) for role in roles}
        return {role: Batch(x, x) for role, x in points.items()}


def source_of(max_examples: int | None) -> TaskSource:
    return build_source(PythonTasks(target=TARGET, max_examples=max_examples), 0, torch.float32)


def test_tasks_of_more_examples_than_were_declared_are_refused() -> None:
    source = source_of(7)
    assert source.episodes(source.specs("train", 0, 2)).num_tasks == 2
    with pytest.raises(UserError) as caught:
        source.episodes(source.specs("val", 0, 2))
    assert str(caught.value) == (
        f"tasks.max_examples: {TARGET} built 14 examples for a task of split 'val', but 7 are declared; "
        "allowed: 14 or more, or smaller tasks"
    )
    assert source.episodes(source.specs("val", 0, 2), [SUPPORT]).num_tasks == 2


def test_without_a_declaration_the_bound_holds_for_what_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(None)
    assert source.episodes(source.specs("val", 0, 2)).num_tasks == 2
    monkeypatch.setattr(module, "MAX_SHARD_EXAMPLES", 50)
    with pytest.raises(UserError) as caught:
        source.episodes(source.specs("val", 0, 4))
    assert str(caught.value) == (
        f"runtime.shard_size: {TARGET} built 14 examples for each of the 4 tasks of a shard, 56 in all; "
        "allowed: at most 50"
    )


def test_a_declaration_bounds_the_shard_before_anything_is_built() -> None:
    def config(max_examples: int | None) -> RunConfig:
        return RunConfig(
            name="x",
            tasks=PythonTasks(target=TARGET, max_examples=max_examples),
            model=MlpConfig(),
            train=TrainConfig(tasks_per_step=100),
            runtime=RuntimeConfig(shard_size=100),
        )

    assert config(None).tasks == config(100_000).tasks.model_copy(update={"max_examples": None})
    with pytest.raises(ValidationError, match="puts 10000100 examples into a shard, 100001 of each task"):
        config(100_001)
