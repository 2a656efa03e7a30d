"""Predictions from given costs: the curve, the checks, their tables and picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cluster import scale
from benchmarks.cluster.model.costs import Costs
from benchmarks.cluster.scale import (
    Check,
    Plan,
    check_table,
    cost_table,
    curve_table,
    curves,
    goal_of,
    predict,
    predict_measured,
    to_json,
)
from benchmarks.pictures import scaling_curves

PLAN = Plan(
    calibrated=(2, 8),
    calibrated_mb=(0.5, 5.0),
    checked=(2, 32),
    checked_mb=(0.5, 20.0),
    max_workers=20,
    payloads_mb=(1.0, 10.0),
    shards_per_worker=2,
    compute_ms=100.0,
    spread=0.1,
    steps=3,
    per_machine=4,
    link_gbit=25.0,
)
CHECKS = [Check(2, 20.0, 1.1, 1.0), Check(32, 20.0, 0.9, 1.0), Check(32, 0.5, 1.05, 1.0)]


def test_sleeps_are_spread_around_the_mean_and_differ_between_steps() -> None:
    sleeps_s = PLAN.sleeps_s(50, step=3)
    assert len(sleeps_s) == 100
    assert min(sleeps_s) >= 0.09
    assert max(sleeps_s) <= 0.11
    assert sum(sleeps_s) / 100 == pytest.approx(0.1, rel=0.02)
    assert sleeps_s == PLAN.sleeps_s(50, step=3) != PLAN.sleeps_s(50, step=4)


def test_without_costs_all_workers_compute_all_the_time() -> None:
    plan = replace(PLAN, max_workers=4, payloads_mb=(0.001,), spread=0.0)
    points = list(predict(Costs(), plan))
    assert [point.workers for point in points] == [1, 2, 4]
    assert [point.step_s for point in points] == [pytest.approx(0.2, rel=1e-4)] * 3
    assert [point.efficiency for point in points] == [pytest.approx(1.0, rel=1e-4)] * 3
    assert [point.shards_per_s for point in points] == [pytest.approx(10.0 * n, rel=1e-4) for n in (1, 2, 4)]


def test_the_driver_bounds_the_throughput() -> None:
    points = list(predict(Costs(report_s=0.01, report_byte_s=1e-9), PLAN))
    by_size = {(point.workers, point.payload_mb): point for point in points}
    assert len(by_size) == 2 * 6  # 1, 2, 4, 8, 16, 20 workers
    assert by_size[20, 10.0].shards_per_s <= 1 / 0.01
    assert by_size[20, 10.0].efficiency < by_size[2, 10.0].efficiency
    assert by_size[20, 10.0].step_s > by_size[20, 1.0].step_s


def test_the_measured_steps_are_predicted() -> None:
    (check,) = predict_measured(Costs(outer_s=0.05), replace(PLAN, spread=0.0), {(4, 0, 0.1): 0.5})
    assert (check.workers, check.payload_mb, check.measured_s) == (4, 0.1, 0.5)
    assert check.predicted_s == pytest.approx(0.25)
    assert check.error == pytest.approx(-0.5)


def test_steps_under_leaders_are_predicted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "num_cores", lambda: 2)
    plan = replace(PLAN, spread=0.0)
    flat, led = predict_measured(Costs(report_s=0.01), plan, {(32, 0, 0.1): 1.0, (32, 2, 0.1): 1.0})
    assert (led.leaders, led.predicted_s) != (0, flat.predicted_s)
    # Two leaders take 32 reports each, and the driver the sums of two units each.
    assert led.predicted_s < flat.predicted_s


def test_large_runs_have_leaders_and_gain_by_them() -> None:
    plan = replace(PLAN, max_workers=200, payloads_mb=(0.5,), shards_per_worker=4)
    points = list(predict(Costs(assign_s=5e-4, report_s=5e-4, latency_s=1e-3), plan))
    by_case = {(point.workers, point.leaders): point for point in points}
    assert {leaders for workers, leaders in by_case if workers < 64} == {0}
    assert by_case[200, 7].efficiency > 0.8 > by_case[200, 0].efficiency
    table = curve_table(points)
    assert table[0]["0.5 MB, leaders: efficiency"] is None
    assert table[-1]["0.5 MB, leaders: efficiency"] is not None


def test_the_worst_error_is_that_at_the_goals_workers() -> None:
    assert str(goal_of(CHECKS)) == "largest relative error at 32 workers: 0.1; goal <= 0.2: reached"
    assert goal_of(CHECKS[:1]) is None
    assert [line["error"] for line in check_table(CHECKS)] == ["+10.0%", "-10.0%", "+5.0%"]


def test_json_tables_and_picture(tmp_path: Path) -> None:
    costs = Costs(begin_s=0.01, begin_byte_s=1e-9)
    points = list(predict(costs, PLAN))
    result = json.loads(json.dumps(to_json(PLAN, [], costs, CHECKS, points)))
    assert result["costs"]["begin_s"] == 0.01
    assert result["goal"] == {"workers": 32, "error": 0.2, "reached": True}
    assert len(result["curve"]) == len(points)
    assert result["checks"][0]["error"] == pytest.approx(0.1)
    first, *_, last = cost_table(costs)
    assert first == {"cost": "begin", "ms": "10", "ms / MB": "1"}
    assert last == {"cost": "latency", "ms": "0", "ms / MB": None}
    assert [line["workers"] for line in curve_table(points)] == [1, 2, 4, 8, 16, 20]
    scaling_curves(tmp_path / "scale.png", *curves(points, CHECKS), "a machine")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
