"""The tables of the repository: their jobs are there, and every method is in one or belongs to other tasks."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from distmeta.config import RunConfig
from distmeta.config.load import load_config, load_table
from distmeta.data.store import write_store
from distmeta.methods import METHODS
from distmeta.training import tables
from distmeta.training.tables import Cell, TableOptions, cells_of, run_table

FOLDER = Path(__file__).resolve().parents[2] / "jobs" / "tables"
TABLES = {
    "architecture": ("cifar_fs",),
    "continual": ("long", "table"),
    "feature_reuse": ("cifar_fs", "fc100", "layers", "omniglot"),
    "methods": ("omniglot", "sinusoid"),
    "omniglot": ("inductive", "lake", "table"),
    "reinforcement": ("cheetah", "navigation"),
    "surgical": ("table",),
    "test_time": ("corruption", "settings", "ttt"),
    "transfer": ("banking77", "clinc150", "pretraining", "signature", "usps"),
}
SOURCES = [f"{FOLDER / file}.py:{name}" for file, names in TABLES.items() for name in names]
OF_OTHER_TASKS = {
    *("label_words", "reweight", "learned_optimizer", "evolved_optimizer"),
}


@cache
def cells_in(source: str) -> list[Cell]:
    """The cells of a table with one seed."""
    table, path = load_table(source)
    return cells_of(table, path, TableOptions(Path("out"), budget_s=60.0))


def test_the_files_are_these() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(TABLES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.rpartition("/")[2])
def test_every_cell_is_a_job(source: str) -> None:
    cells = cells_in(source)
    assert len({cell.config.name for cell in cells}) == len(cells)
    assert all(cell.config.train.budget_s == 60.0 for cell in cells if cell.row.timed and cell.config.train.steps)


def test_every_method_is_in_a_table_or_of_other_tasks() -> None:
    found = {cell.config.algorithm.method for source in SOURCES for cell in cells_in(source)}
    assert set(METHODS) - found == OF_OTHER_TASKS


def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of tables take two steps, and as many inner ones."""

    def with_few_steps(source: str, changes: tuple[str, ...] = ()) -> RunConfig:
        config = load_config(source, changes)
        phases = getattr(config.algorithm.learner, "phases", ())
        few = [f"algorithm.learner.phases.{i}.steps={min(phase.steps, 2)}" for i, phase in enumerate(phases)]
        return load_config(source, [*changes, *few, f"train.steps={min(config.train.steps, 2)}"])

    monkeypatch.setattr(tables, "load_config", with_few_steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["usps", "signature", "pretraining"])
def test_every_strategy_of_transfer_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for store in ("here", "there"):
        images = rng.integers(0, 256, (60, 1, 22, 22), dtype=np.uint8)
        parts = {"train": [15] * 3, "test": [5] * 3}
        write_store(tmp_path / store, images, class_names=list("abc"), class_counts=[20] * 3, parts=parts)
    target = tmp_path / ("here" if name == "signature" else "there")
    small = (
        *(f"tasks.store={tmp_path / 'here'}", f"tasks.target={target}", "tasks.examples=12", "tasks.source_batch=4"),
        *("tasks.support=6", "tasks.queries=6", "model.filters=[4, 4, 4]", "train.log_every=1"),
        *("runtime.executor=local", "tracking.kind=none"),
    )

    few_steps(monkeypatch)
    table, path = load_table(f"{FOLDER / 'transfer.py'}:{name}")
    columns = ["20", "50"] if name == "pretraining" else None
    result = run_table(table.part(None, columns), path, TableOptions(tmp_path / "out", overrides=small, quiet=True))
    assert not result.failed
    rows = result.rows()
    assert len(rows) == {"usps": 9, "signature": 5, "pretraining": 3}[name]
    assert ("lower half masked" in rows[0]) == (name == "signature")
    assert not any(cell == "-" for row in rows for title, cell in row.items() if "published" not in title)
    assert (tmp_path / "out" / f"{table.name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def small_shifts(tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of the tables, those of shifts with few images each, and changes of their jobs: two steps."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    images = np.random.default_rng(0).integers(0, 256, (1000, 3, 16, 16), dtype=np.uint8)
    write_store(tmp_path / "small", images, class_names=names, class_counts=[100] * 10, splits={"x": {}})
    shutil.copytree(FOLDER.parent, tmp_path / "jobs")
    fewer = {
        "test_time": (
            ("BATCH, BATCHES = 200, 25", "BATCH, BATCHES = 4, 2"),
            ("ONE_BY_ONE = 500", "ONE_BY_ONE = 3"),
            ("TUNED_ON, TUNED_BATCH = 500, 50", "TUNED_ON, TUNED_BATCH = 20, 5"),
        ),
        "surgical": (("STEPS, BATCH = 100, 50", "STEPS, BATCH = 2, 5"), ("TASKS = 3", "TASKS = 2")),
    }
    for name, changes in fewer.items():
        file = tmp_path / "jobs" / "tables" / f"{name}.py"
        text = file.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
    sizes = ("tasks.queries=4", "tasks.augment.crop=1", "model.widths=[2,2,2,4]")
    where = (f"tasks.store={tmp_path / 'small'}", "tasks.shares=[0.2,0.4,0.4]")
    rest = ("engine.strategy=loop", "runtime.executor=local", "evaluation.every=0", "tracking.kind=none")
    return tmp_path / "jobs" / "tables", (*sizes, *where, *rest)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["corruption", "ttt", "settings"])
def test_every_row_of_adaptation_at_test_time_runs(
    name: str, small_shifts: tuple[Path, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, changes = small_shifts
    few_steps(monkeypatch)
    table, path = load_table(f"{folder / 'test_time.py'}:{name}")
    columns = ["clean", "fog", "snow", *["one after the other"] * (name == "corruption")]
    part = table if name == "settings" else table.part(None, columns)
    found = run_table(part, path, TableOptions(folder / "out", overrides=changes, quiet=True))
    assert not found.failed
    means = found.means()
    if name == "settings":
        assert all(set(cells) == {"accuracy"} for cells in means.values()) and len(means) == 8
        return
    assert list(means) == [row.title for row in table.rows if row.shown]
    assert {title: set(cells) for title, cells in means.items()} == {
        title: {"one after the other"} if title == "TENT, continual" else {"clean", "fog", "snow", "mean"}
        for title in means
    }
    for cells in means.values():
        if "mean" in cells:
            assert cells["mean"].mean == pytest.approx((cells["fog"].mean + cells["snow"].mean) / 2)


@pytest.mark.slow
def test_every_block_is_fine_tuned(small_shifts: tuple[Path, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, changes = small_shifts
    few_steps(monkeypatch)
    table, path = load_table(str(folder / "surgical.py"))
    small = (*changes, "tasks.examples=10", "tasks.eval_queries=20")
    found = run_table(table, path, TableOptions(folder / "out", overrides=small, quiet=True))
    assert not found.failed
    assert {title: len(cells) for title, cells in found.means().items()} == {
        row.title: 7 for row in table.rows if row.shown
    }
