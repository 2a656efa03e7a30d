"""Environment steps a second: that both sides do the same, not how fast."""

from __future__ import annotations

import sys

import pytest

from benchmarks.engine import environments
from distmeta.config import NavigationTasks

pytest.importorskip("gymnasium", reason="it is compared with environments of gymnasium")


def test_both_make_as_many_steps() -> None:
    config = NavigationTasks(queries=4, horizon=6)
    for act in (environments.idle, environments.policy):
        assert environments.collected(config, 3, act) == 3 * 4 * 6
        assert environments.looped(environments._navigation, 12, 6, act) == 12 * 6


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(environments.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["environments", "--tasks", "2", "--trajectories", "2", "--repeats", "1"])
    environments.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[1].split("  ")[0].strip() for line in lines if "steps/s" in line] == [
        "alone",
        "with policy",
    ]
