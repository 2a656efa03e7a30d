"""Contract of all task sources: a table with a row for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distmeta.config.tasks import GlyphTasks, SinusoidTasks, StoreTasks, TableTasks, TasksConfig, VectorTasks
from distmeta.core.types import Episode
from distmeta.data.store import ClassStore
from distmeta.tasks import SOURCES, TaskSource, build_source

FEW_SHOT = {"way": 3, "shots": 2, "queries": 3, "eval_queries": 4}
ROWS = {"shots": 2, "queries": 3, "eval_queries": 4}
CONFIGS: dict[str, Callable[[Path], TasksConfig]] = {
    "images": lambda home: StoreTasks(store=str(home / "small"), **FEW_SHOT),
    "images, rotations": lambda home: StoreTasks(store=str(home / "small"), rotations=True, train_way=8, **FEW_SHOT),
    "images, joint": lambda home: StoreTasks(store=str(home / "small"), joint=True, **FEW_SHOT),
    "vectors": lambda home: VectorTasks(store=str(home / "vectors"), **FEW_SHOT),
    "vectors, standardise": lambda home: VectorTasks(store=str(home / "vectors"), standardise=True, **FEW_SHOT),
    "vectors, joint": lambda home: VectorTasks(store=str(home / "vectors"), joint=True, **FEW_SHOT),
    "table": lambda home: TableTasks(table=str(home / "table"), **ROWS),
    "table, standardise": lambda home: TableTasks(table=str(home / "table"), standardise=True, **ROWS),
    "table, joint": lambda home: TableTasks(table=str(home / "table"), joint=True, **ROWS),
    "glyphs": lambda _: GlyphTasks(size=16, **FEW_SHOT),
    "glyphs, joint": lambda _: GlyphTasks(size=16, joint=True, **FEW_SHOT),
    "sinusoid": lambda _: SinusoidTasks(shots=5, queries=6, eval_queries=7),
    "sinusoid, joint": lambda _: SinusoidTasks(shots=5, queries=6, eval_queries=7, joint=True),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest, store: ClassStore, vectors: ClassStore, table: ClassStore) -> TasksConfig:
    return CONFIGS[request.param](store.path.parent)


def build(config: TasksConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> TaskSource:
    return build_source(config, seed, dtype)


def same(left: Episode, right: Episode) -> bool:
    pairs = zip(left.tensors(), right.tensors(), strict=True)
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_every_source_has_a_row() -> None:
    assert {name.split(",")[0] for name in CONFIGS} == set(SOURCES)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_depends_on_its_own_spec_alone(config: TasksConfig, split: str) -> None:
    source = build(config)
    specs = source.specs(split, step=3, count=5)
    together = source.episodes(specs)
    again = build(config).episodes(specs)
    assert together.num_tasks == 5
    assert same(together, again)
    for index, spec in enumerate(specs):
        expected = together.map(lambda tensor, index=index: tensor[index : index + 1])
        assert same(source.episodes([spec]), expected)
    reversed_order = source.episodes(specs[::-1])
    assert same(reversed_order, together.map(lambda tensor: tensor.flip(0)))


def test_steps_splits_tasks_and_seeds_differ(config: TasksConfig) -> None:
    source, other = build(config), build(config, seed=1)
    first = source.episodes(source.specs("test", 0, 2)).support.inputs
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, source.episodes(source.specs("test", 1, 2)).support.inputs)
    assert not torch.equal(first, other.episodes(other.specs("test", 0, 2)).support.inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_finite_and_have_the_requested_dtype_and_shape(config: TasksConfig, dtype: torch.dtype) -> None:
    source = build(config, dtype=dtype)
    for split in ("train", "test"):
        episode = source.episodes(source.specs(split, 0, 3))
        for batch in (episode.support, *(term.batch for term in episode.query)):
            assert batch.inputs.dtype == dtype
            assert batch.inputs.shape[2:] == source.input_shape
            assert batch.inputs.is_contiguous()
            assert bool(batch.inputs.isfinite().all())
            assert batch.targets is not None
            assert batch.targets.shape[:2] == batch.inputs.shape[:2]
            assert batch.targets.dtype == (dtype if source.objective == "mse" else torch.int64)
        assert {term.objective for term in episode.query} == {source.objective}


def test_only_joint_training_scores_unadapted_parameters(config: TasksConfig) -> None:
    source = build(config)
    for split in ("train", "val", "test"):
        (term,) = source.episodes(source.specs(split, 0, 1)).query
        assert term.adapted == (not (config.joint and split == "train"))


def test_tasks_of_two_splits_cannot_share_an_episode(config: TasksConfig) -> None:
    source = build(config)
    with pytest.raises(ValueError, match="one split"):
        source.episodes([*source.specs("train", 0, 1), *source.specs("val", 0, 1)])
