"""The benchmarks of the runtime on tiny sizes: they run to their end and write what they say."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster.stragglers import ideal


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_module(f"benchmarks.cluster.{name}", run_name="__main__")


def written(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_stragglers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--shards", "8", "--steps", "4", "--shard-s", "0.02", "--shard-tasks", "1"]
    run(monkeypatch, "stragglers", *sizes, "--out", str(tmp_path))
    cases = written(tmp_path, "stragglers")["cases"]
    assert [(case["way"], case["name"]) for case in cases] == [
        (way, name) for way in ("sleep", "throttle") for name in ("undisturbed", "slowed, copies", "slowed, no copies")
    ]
    assert all(len(case["seconds"]) == 4 for case in cases)
    for way in ("sleep", "throttle"):
        assert len({case["digest"] for case in cases if case["way"] == way}) == 1
        assert is_picture(tmp_path / f"stragglers_{way}_8.png")
    assert all(case["copies"] == 0 for case in cases if case["name"] == "slowed, no copies")
    assert "sleep, 8 shards a step: slowed, copies:" in capsys.readouterr().out


def test_the_best_schedule_of_shards_that_cannot_be_divided() -> None:
    assert ideal(16, 8.0) == 6 / 4  # three workers compute 16 shards in six turns, the slow one none in less than eight
    assert ideal(24, 8.0) == 8 / 6
    assert ideal(4, 8.0) == 2 / 1
    assert ideal(16, 1.0) == 1


@pytest.mark.slow
def test_asynchronous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--runs", "sine_reptile", "--seconds", "0.5", "--workers", "2", "--share", "0.8", "--test-tasks", "5"]
    run(monkeypatch, "asynchronous", *sizes, "--out", str(tmp_path))
    cases = written(tmp_path, "asynchronous")["cases"]
    assert [case["name"] for case in cases] == [
        "synchronous",
        "asynchronous",
        "synchronous, one slow",
        "asynchronous, one slow",
    ]
    for case in cases:
        assert case["tasks_per_s"] > 0
        assert len(case["steps"]) == len(case["seconds"]) == len(case["score"])
    assert cases[0]["stale"] == cases[0]["staleness"] == 0
    assert is_picture(tmp_path / "asynchronous_sine_reptile.png")
    assert "sine_reptile: tasks/s kept with one slow worker" in capsys.readouterr().out


@pytest.mark.slow
def test_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--strategies", "loop", "--shards", "1", "--tasks", "2", "--rounds", "2", "--seconds", "0.05"]
    run(monkeypatch, "workers", *sizes, "--source", "glyphs", "--out", str(tmp_path))
    (cell,) = written(tmp_path, "workers")["cells"]
    assert {name: len(found) for name, found in cell["seconds"].items()} == {
        "local": 2,
        "ray 1": 2,
        "ray 2": 2,
        "barrier": 2,
    }
    assert set(cell["ratios"]) == {"ray 1 / local", "ray 2 / ray 1", "barrier / local"}
    assert "ray 2 / ray 1, loop:" in capsys.readouterr().out
