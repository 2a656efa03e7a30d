"""Regression tasks from the groups of a table. The numbers of the small table say where they are from."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from distmeta.config.tasks import StoreTasks, TableTasks, VectorTasks
from distmeta.core.errors import UserError
from distmeta.core.types import Batch
from distmeta.data.catalog import list_stores, open_store
from distmeta.data.store import ClassStore, write_store
from distmeta.tasks import build_source
from distmeta.tasks.images import StoreSource, VectorSource
from distmeta.tasks.stored import scaling_of
from distmeta.tasks.table import TableSource

from .conftest import COUNTS, SPLITS


def source_of(store: ClassStore, dtype: torch.dtype = torch.float64, **fields: object) -> TableSource:
    defaults = {"shots": 2, "queries": 3, "eval_queries": 4}
    return TableSource(TableTasks(table=str(store.path), **defaults | fields), store, 0, dtype)


def origins(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Group and row of each example: [T, N] each."""
    inputs = batch.inputs.round().to(torch.int64).numpy()
    assert (inputs[..., 2] == 7).all()
    return inputs[..., 0] - 1, inputs[..., 1] - 1


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_is_a_group_whose_rows_are_distinct(table: ClassStore, split: str) -> None:
    source = source_of(table)
    assert (source.input_shape, source.num_outputs, source.train_outputs["query"]) == ((3,), 2, 2)
    episode = source.episodes(source.specs(split, 0, 60))
    query = episode.query
    queries = 3 if split == "train" else 4
    assert episode.support.inputs.shape == (60, 2, 3)
    assert query.inputs.shape == (60, queries, 3)
    assert query.targets is not None
    assert query.targets.shape == (60, queries, 2)
    groups, rows = (
        np.concatenate(parts, axis=1) for parts in zip(origins(episode.support), origins(query), strict=True)
    )
    assert (groups == groups[:, :1]).all(), "one task, one group"
    assert set(groups[:, 0].tolist()) == set(SPLITS["mixed"][split])
    assert all(len(set(task)) == 2 + queries for task in rows.tolist()), "support and query share no row"
    targets = torch.cat([episode.support.targets, query.targets], dim=1).numpy()
    np.testing.assert_array_equal(targets, np.stack([groups + rows, groups * rows], axis=-1))


def test_every_row_is_drawn_first(table: ClassStore) -> None:
    source = source_of(table)
    groups, rows = origins(source.episodes(source.specs("val", 0, 600)).support)
    seen = set(zip(groups[:, 0].tolist(), rows[:, 0].tolist(), strict=True))
    assert seen == {(group, row) for group in SPLITS["mixed"]["val"] for row in range(COUNTS[group])}


def test_inputs_are_scaled_by_the_training_groups_alone(table: ClassStore) -> None:
    plain, scaled = source_of(table), source_of(table, standardise=True)
    train = np.concatenate(
        [table.rows[table.class_offsets[g] : table.class_offsets[g + 1], :3] for g in SPLITS["mixed"]["train"]]
    )
    for split in ("train", "test"):
        specs = plain.specs(split, 0, 5)
        raw, result = plain.episodes(specs), scaled.episodes(specs)
        expected = (raw.support.inputs.numpy() - train.mean(0)) / np.array([*train.std(0)[:2], 1.0])
        np.testing.assert_allclose(result.support.inputs.numpy(), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(result.support.targets, raw.support.targets)
    assert (scaled.scaling.scale > 0).all()  # the third input is the same in all rows


def test_vectors_are_scaled_by_the_training_classes_alone(vectors: ClassStore) -> None:
    fields = {"store": str(vectors.path), "way": 3, "shots": 2, "queries": 3, "eval_queries": 4}
    plain = VectorSource(VectorTasks(**fields), vectors, 0, torch.float32)
    scaled = VectorSource(VectorTasks(standardise=True, **fields), vectors, 0, torch.float32)
    assert plain.input_shape == (3,)
    train = np.concatenate(
        [vectors.vectors[vectors.class_offsets[c] : vectors.class_offsets[c + 1]] for c in SPLITS["mixed"]["train"]]
    ).astype(np.float64)
    specs = plain.specs("test", 0, 20)
    raw, result = plain.episodes(specs).support, scaled.episodes(specs).support
    assert set(raw.inputs[..., 0].unique().tolist()) == {index + 1 for index in SPLITS["mixed"]["test"]}
    assert raw.inputs.shape == (20, 6, 3)
    expected = (raw.inputs.numpy() - train.mean(0)) / np.array([*train.std(0)[:2], 1.0])
    np.testing.assert_allclose(result.inputs.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_there_is_nothing_to_scale_by_without_training_classes(tmp_path: Path) -> None:
    rows = np.arange(36, dtype=np.float32).reshape(12, 3)
    splits = {"new": {"test": [0, 1, 2]}}
    write_store(tmp_path / "new", rows, class_names=list("abc"), class_counts=[4] * 3, splits=splits)
    config = VectorTasks(store=str(tmp_path / "new"), standardise=True, way=2, shots=1, queries=1, eval_queries=1)
    with pytest.raises(UserError, match=r"tasks.standardise: split 'train' has no examples .* allowed: false"):
        build_source(config, 0, torch.float32)


@pytest.mark.parametrize("number", [1e200, np.inf, np.nan])
def test_numbers_without_a_deviation_are_named(number: float) -> None:
    values = np.arange(8.0).reshape(4, 2)
    values[2, 1] = number
    with pytest.raises(UserError, match=r"tasks.standardise: the numbers of input 1 in split 'train' have no finite"):
        scaling_of(values, np.arange(4))
    assert scaling_of(values, np.array([0, 1, 3])).scale[0] > 0


def test_a_source_is_pickled_with_the_path_of_its_store(table: ClassStore) -> None:
    source = source_of(table, standardise=True)
    pickled = pickle.dumps(source)
    assert len(pickled) < 4000
    specs = source.specs("train", 0, 2)
    assert torch.equal(pickle.loads(pickled).episodes(specs).support.inputs, source.episodes(specs).support.inputs)


def test_impossible_tasks_are_refused(table: ClassStore, vectors: ClassStore, store: ClassStore) -> None:
    with pytest.raises(
        UserError, match=r"2 shots and 5 queries .* split 'test': group 'group03' has 6 rows, 7 are needed"
    ):
        source_of(table, eval_queries=5)
    with pytest.raises(UserError, match=r"split 'train': group 'group07' has 6 rows, 7 are needed"):
        source_of(table, queries=5)
    with pytest.raises(UserError, match=r"no split set 'mixt'.*mixed"):
        source_of(table, split_set="mixt")
    with pytest.raises(UserError, match=r"tasks.table: data 'vectors' holds vector; .*tasks.source 'vectors'"):
        source_of(vectors)
    with pytest.raises(
        UserError, match=r"data 'small' holds image; allowed: a store of vectors; tasks.source 'images'"
    ):
        VectorSource(VectorTasks(store="small"), store, 0, torch.float32)
    with pytest.raises(UserError, match=r"data 'table' holds table; allowed: a store of images; tasks.source 'table'"):
        StoreSource(StoreTasks(store="table"), table, 0, torch.float32)


def test_a_split_without_groups_is_refused_only_when_it_is_used(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float64).reshape(20, 2)
    for name, split in (("no_val", {"train": [0], "test": [1]}), ("no_train", {"test": [0, 1]})):
        store = write_store(
            tmp_path / name,
            rows,
            class_names=["a", "b"],
            class_counts=[10, 10],
            splits={"given": split},
            num_targets=1,
        )
        if name == "no_train":
            with pytest.raises(UserError, match="split 'train' of data 'no_train' has no group"):
                source_of(store)
            continue
        source = source_of(store)
        source.episodes(source.specs("test", 0, 1))
        with pytest.raises(UserError, match="split 'val' of data 'no_val' has no group"):
            source.episodes(source.specs("val", 0, 1))


def test_a_file_is_imported_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "my waves.csv"
    lines = [f"{group},{row},{group * row}" for group in range(6) for row in range(8)]
    path.write_text("\n".join(["wave,x,y", *lines]), encoding="utf-8")
    config = TableTasks(table=str(path), group="wave", target="y", shots=2, queries=3, eval_queries=3)
    source = build_source(config, 0, torch.float64)
    (name,) = list_stores()
    assert name.startswith("my-waves-")
    build_source(config, 0, torch.float64)
    assert list_stores() == [name]
    store = open_store(name)
    assert (store.kind, store.shape, store.class_names) == ("table", (1, 1), ["0", "1", "2", "3", "4", "5"])
    same = build_source(TableTasks(table=name, shots=2, queries=3, eval_queries=3), 0, torch.float64)
    specs = source.specs("train", 0, 4)
    assert torch.equal(source.episodes(specs).support.inputs, same.episodes(specs).support.inputs)
    path.write_text("\n".join(["wave,x,y", *lines[8:]]), encoding="utf-8")
    build_source(config, 0, torch.float64)
    assert len(list_stores()) == 2
    with pytest.raises(UserError, match=r"is a store, whose columns were named when it was imported"):
        build_source(TableTasks(table=name, group="wave"), 0, torch.float64)
    with pytest.raises(UserError, match=r"none.csv: no such file"):
        build_source(TableTasks(table=str(tmp_path / "none.csv")), 0, torch.float64)
    with pytest.raises(UserError, match=r"my waves.csv: has no column 'wav'; allowed: did you mean 'wave'"):
        build_source(TableTasks(table=str(path), group="wav", target="y"), 0, torch.float64)
