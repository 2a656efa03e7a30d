"""The tables of the repository: their jobs are there, and every method is in one or belongs to other tasks."""

from __future__ import annotations

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
    "continual": ("table",),
    "feature_reuse": ("cifar_fs", "fc100", "omniglot"),
    "methods": ("omniglot", "sinusoid"),
    "omniglot": ("lake", "table"),
    "reinforcement": ("cheetah", "navigation"),
    "transfer": ("banking77", "clinc150", "pretraining", "signature", "usps"),
}
SOURCES = [f"{FOLDER / file}.py:{name}" for file, names in TABLES.items() for name in names]
OF_OTHER_TASKS = {
    *("label_words", "reweight", "learned_optimizer", "evolved_optimizer"),
    *("bn_adapt", "tent", "ttt", "deep_coral", "dann"),
}


@cache
def cells_in(source: str) -> list[Cell]:
    """The cells of a table with two seeds."""
    table, path = load_table(source)
    return cells_of(table, path, TableOptions(Path("out"), budget_s=60.0, seeds=2))


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

    def with_few_steps(source: str, changes: tuple[str, ...] = ()) -> RunConfig:
        config = load_config(source, changes)
        phases = getattr(config.algorithm.learner, "phases", ())
        few = [f"algorithm.learner.phases.{i}.steps={min(phase.steps, 2)}" for i, phase in enumerate(phases)]
        return load_config(source, [*changes, *few, f"train.steps={min(config.train.steps, 2)}"])

    monkeypatch.setattr(tables, "load_config", with_few_steps)
    table, path = load_table(f"{FOLDER / 'transfer.py'}:{name}")
    columns = ["20", "50"] if name == "pretraining" else None
    result = run_table(table.part(None, columns), path, TableOptions(tmp_path / "out", overrides=small, quiet=True))
    assert not result.failed
    rows = result.rows()
    assert len(rows) == {"usps": 9, "signature": 5, "pretraining": 3}[name]
    assert ("lower half masked" in rows[0]) == (name == "signature")
    assert not any(cell == "-" for row in rows for title, cell in row.items() if "published" not in title)
    assert (tmp_path / "out" / f"{table.name}.png").read_bytes().startswith(b"\x89PNG")
