"""Contract of all task sources: a table with a row for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distmeta.config.problems import DatasetTasks, QuadraticTasks
from distmeta.config.shifts import Augmentation, CorruptionShift, ShiftedTasks
from distmeta.config.tasks import GlyphTasks, SinusoidTasks, StoreTasks, TableTasks, TasksConfig, TextTasks, VectorTasks
from distmeta.config.transfer import TextTransferTasks, TransferTasks
from distmeta.core.errors import UserError
from distmeta.core.types import LABELS, OUTSIDE, QUERY, SUPPORT, UNLABELLED, Episode
from distmeta.data.store import ClassStore
from distmeta.tasks import SOURCES, TaskSource, build_source

FEW_SHOT = {"way": 3, "shots": 2, "queries": 3, "eval_queries": 4}
ROWS = {"shots": 2, "queries": 3, "eval_queries": 4}
WORDS = {"tokenizer": "words", "buckets": (16, 24, 32)}
INTERACTIVE = {"cheetah", "navigation"}
"""Their examples are rows for trajectories, which have tests of their own."""
CONFIGS: dict[str, Callable[[Path], TasksConfig]] = {
    "images": lambda home: StoreTasks(store=str(home / "small"), **FEW_SHOT),
    "images, rotations": lambda home: StoreTasks(store=str(home / "small"), rotations=True, train_way=8, **FEW_SHOT),
    "vectors": lambda home: VectorTasks(store=str(home / "vectors"), **FEW_SHOT),
    "vectors, standardise": lambda home: VectorTasks(store=str(home / "vectors"), standardise=True, **FEW_SHOT),
    "texts": lambda home: TextTasks(store=str(home / "texts"), **WORDS, **FEW_SHOT),
    "texts, outside": lambda home: TextTasks(store=str(home / "texts"), outside=True, **WORDS, **FEW_SHOT),
    "table": lambda home: TableTasks(table=str(home / "table"), **ROWS),
    "table, standardise": lambda home: TableTasks(table=str(home / "table"), standardise=True, **ROWS),
    "glyphs": lambda _: GlyphTasks(size=16, **FEW_SHOT),
    "sinusoid": lambda _: SinusoidTasks(shots=5, queries=6, eval_queries=7),
    "quadratics": lambda _: QuadraticTasks(size=4, rows=5),
    "shifted": lambda home: ShiftedTasks(
        store=str(home / "small"), shares=(0.5, 0.25, 0.25), examples=9, queries=6, eval_queries=7
    ),
    "shifted, corruption": lambda home: ShiftedTasks(
        store=str(home / "small"),
        shares=(0.5, 0.25, 0.25),
        examples=2,
        queries=5,
        eval_queries=8,
        shift=CorruptionShift(names=("contrast", "gaussian_noise")),
        augment=Augmentation(crop=1),
    ),
    "dataset": lambda home: DatasetTasks(store=str(home / "small"), examples=12, queries=6, eval_queries=7),
    "transfer": lambda home: TransferTasks(
        store=str(home / "small"),
        target=str(home / "small"),
        examples=25,
        source_batch=5,
        eval_queries=7,
        folds=3,
        test_share=0.3,
        size=3,
        signature=0.2,
    ),
    "text_transfer": lambda home: TextTransferTasks(
        store=str(home / "texts"), examples=26, eval_queries=7, folds=3, test_share=0.3, **WORDS
    ),
}


@pytest.fixture(params=CONFIGS)
def config(
    request: pytest.FixtureRequest, store: ClassStore, vectors: ClassStore, texts: ClassStore, table: ClassStore
) -> TasksConfig:
    return CONFIGS[request.param](store.path.parent)


def build(config: TasksConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> TaskSource:
    return build_source(config, seed, dtype)


def same(left: Episode, right: Episode) -> bool:
    pairs = zip(left.tensors(), right.tensors(), strict=True)
    return left.sizes == right.sizes and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def padded(episode: Episode, source: TaskSource) -> Episode:
    """The episode with token ids padded to the largest bucket, whatever its length."""
    if source.tokens is None:
        return episode
    pad_id = source.tokens.pad_id

    def pad(tensor: Tensor) -> Tensor:
        width = source.input_shape[0] - tensor.shape[-1]
        return functional.pad(tensor, (0, width), value=pad_id) if tensor.ndim == 3 else tensor

    return replace(episode.map(pad), sizes=None)


def test_every_source_has_a_row() -> None:
    assert {name.split(",")[0] for name in CONFIGS} == set(SOURCES) - {"python"} - INTERACTIVE


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_depends_on_its_own_spec_alone(config: TasksConfig, split: str) -> None:
    source = build(config)
    specs, roles = source.specs(split, step=3, count=5), source.roles(split)
    together = source.episodes(specs, roles)
    again = build(config).episodes(specs, roles)
    assert together.num_tasks == 5
    assert together.seeds is not None and together.seeds.dtype == torch.int64
    assert len(set(together.seeds.tolist())) == 5
    assert same(together, again)
    for index, spec in enumerate(specs):
        assert same(source.episodes([spec], roles).select([0]), together.select([index]))
    reversed_order = source.episodes(specs[::-1], roles)
    assert same(reversed_order.select(range(5)), together.select(range(4, -1, -1)))


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
        episode = source.episodes(source.specs(split, 0, 3), source.roles(split))
        is_text = source.tokens is not None
        assert (episode.sizes is not None) == is_text
        longest = max((size.length for size in episode.sizes or ()), default=0)
        for role, batch in episode.roles.items():
            assert batch.inputs.dtype == (torch.int64 if is_text else dtype)
            assert batch.inputs.is_contiguous()
            assert bool(batch.inputs.isfinite().all())
            if role == LABELS:
                assert batch.targets is None and batch.inputs.shape[1] == FEW_SHOT["way"]
                continue
            assert batch.inputs.shape[2:] == ((longest,) if is_text else source.input_shape)
            if role in (OUTSIDE, UNLABELLED):
                assert batch.targets is None
                continue
            assert batch.targets is not None
            assert batch.targets.shape[:2] == batch.inputs.shape[:2]
            assert batch.targets.dtype == (dtype if source.objective == "mse" else torch.int64)
            if source.objective == "cross_entropy" and split == "train":
                assert 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < source.train_outputs[role]


def test_a_role_is_the_same_whatever_is_built_beside_it(config: TasksConfig) -> None:
    source = build(config)
    for split in ("train", "val", "test"):
        specs, roles = source.specs(split, 0, 2), source.roles(split)
        every = source.episodes(specs, roles)
        assert list(every.roles) == list(roles)
        assert list(source.episodes(specs).roles) == [SUPPORT, QUERY]
        for role in roles:
            assert same(padded(source.episodes(specs, (role,)), source), padded(every.only((role,)), source))


def test_roles_come_in_the_order_in_which_they_are_asked_for(config: TasksConfig) -> None:
    source = build(config)
    assert list(source.episodes(source.specs("train", 0, 1), (QUERY, SUPPORT)).roles) == [QUERY, SUPPORT]


def test_tasks_of_two_splits_cannot_share_an_episode(config: TasksConfig) -> None:
    source = build(config)
    with pytest.raises(ValueError, match="one split"):
        source.episodes([*source.specs("train", 0, 1), *source.specs("val", 0, 1)])


def test_an_unknown_role_is_refused(config: TasksConfig) -> None:
    source = build(config)
    with pytest.raises(UserError, match=r"^tasks: there is no role 'sorce'; allowed: support, query"):
        source.episodes(source.specs("train", 0, 1), (SUPPORT, "sorce"))
