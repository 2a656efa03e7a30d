"""The table of errors under corruption, on a tiny store."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.methods import shifts, surgical
from benchmarks.scripts import load_job
from distmeta.data.store import ClassStore, write_store


@pytest.fixture
def store(tmp_path: Path) -> ClassStore:
    """Two classes of noise, of 20 images each: dark and light."""
    images = np.random.default_rng(0).integers(0, 120, (40, 1, 16, 16), dtype=np.uint8)
    images[20:] += 120
    names = ["dark", "light"]
    return write_store(tmp_path / "small", images, class_names=names, class_counts=[20, 20], splits={"x": {}})


def small_job(store: ClassStore, folder: Path) -> list[str]:
    """Changes of a job: two steps of a narrow network."""
    tasks = [f"tasks.store={store.path}", "tasks.shares=[0.5,0.1,0.4]", "tasks.queries=4", "tasks.eval_queries=4"]
    tasks += ["tasks.examples=2", "tasks.augment.crop=1", "model.widths=[2,2,2,8]", "evaluation.final_tasks=0"]
    rest = ["engine.strategy=loop", "runtime.executor=local", "train.steps=2", "evaluation.every=0"]
    return [*tasks, *rest, f"checkpoint.path={folder}"]


@pytest.mark.slow
def test_the_table_is_resumed(
    store: ClassStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = small_job(store, tmp_path)
    small = ["--images", "8", "--batch", "4", "--turned", "3", "--out", str(tmp_path), "--names", "fog"]
    changed = [part for each in sets for part in ("--set", each)]
    monkeypatch.setattr(sys, "argv", ["shifts", *small, *changed])
    shifts.main()
    first = json.loads((tmp_path / "shifts.json").read_text())["results"]["0"]
    rows = ["source", "BN-adapt", "TENT, online", "TENT, episodic", "source of TTT", "TTT, online", "TTT, each image"]
    assert {row for row, found in first.items() if set(found) == {"fog"}} == set(rows)
    assert (set(first["clean"]), set(first["TENT, continual"])) == ({"tent", "ttt"}, {"continual"})
    assert all(0 <= value <= 100 for found in first.values() for value in found.values())
    monkeypatch.setattr(sys, "argv", ["shifts", *small, "contrast", "--runs", "online", *changed])
    asked = []
    monkeypatch.setattr(
        shifts,
        "errors",
        lambda args, run, path, names: asked.append(names) or dict.fromkeys(run.rows, 50.0),
    )
    shifts.main()
    assert asked == [["contrast"]]
    again = json.loads((tmp_path / "shifts.json").read_text())["results"]["0"]
    assert again["source"] == {**first["source"], "contrast": 50.0}
    lines = capsys.readouterr().out.splitlines()
    assert "|  | fog | contrast | mean | against source |" in lines
    assert lines[-2].startswith("error on clean images, network tent: ")


def test_differences_are_paired_by_corruption_and_seed() -> None:
    results: dict[str, Any] = {
        "0": {
            "source": {"fog": 40.0, "snow": 30.0},
            "TENT, online": {"fog": 20.0, "snow": 16.0},
            "clean": {"tent": 9.0},
        },
        "1": {"source": {"fog": 42.0}, "TENT, online": {"fog": 24.0, "snow": 99.0}, "clean": {"tent": 11.0}},
    }
    assert shifts.against(results, "source") == "-"
    mean, half = shifts.against(results, "TENT, online").split(" ± ")
    assert float(mean) == pytest.approx(-np.mean([20, 14, 18]), abs=0.05)
    assert float(half) == pytest.approx(4.303 * np.std([20, 14, 18], ddof=1) / 3**0.5, abs=0.05)
    lines = shifts.table(results, ["fog", "snow"])
    assert lines[2] == "| source | 41.0 | 30.0 | 37.3 | - |"
    assert "clean" not in "".join(lines)


@pytest.mark.slow
def test_surgical(
    store: ClassStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [*small_job(store, tmp_path), "tasks.shares=[0.4,0.3,0.3]"]
    sizes = [
        "--examples",
        "4",
        "--queries",
        "4",
        "--tasks",
        "2",
        "--steps",
        "2",
        "--batch",
        "2",
        "--rates",
        "0.1",
        "0.01",
    ]
    changed = [part for each in sets for part in ("--set", each)]
    monkeypatch.setattr(surgical, "BLOCKS", ("nothing", "block4", "head"))
    monkeypatch.setattr(sys, "argv", ["surgical", "--shifts", "labels", *sizes, *changed, "--out", str(tmp_path)])
    surgical.main()
    cells = json.loads((tmp_path / "surgical.json").read_text())["cells"]
    assert list(cells["labels"]) == ["nothing", "block4", "head"]
    assert {found["rate"] for found in cells["labels"].values()} <= {0.1, 0.01}
    monkeypatch.setattr(surgical, "cell", None)  # nothing is left to do
    surgical.main()
    lines = capsys.readouterr().out.splitlines()
    assert "| fine-tuned | labels (output) |" in lines
    assert sum("**" in line for line in lines[-3:]) == 1


def test_surgical_reads_its_networks_from_jobs() -> None:
    for job, shift in surgical.SHIFTS.values():
        assert load_job(f"test_time.py:{job}").tasks.shift is not None or shift is not None
    assert set(surgical.LEVELS) == set(surgical.SHIFTS)
