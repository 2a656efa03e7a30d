"""Steps in this process, numbers that follow from timed steps, and memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.cluster.common.overhead import OUTER, OverheadSteps, StepTimes, needed_bytes, store_bytes
from benchmarks.cluster.common.programs import SleepProgram
from benchmarks.cluster.server import Copy, Row, curves, fitting, goals, growth, steps_for, table
from benchmarks.pictures import overhead_curves
from distmeta.config import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.runtime.local import LocalExecutor


def step(total_s: float) -> StepTimes:
    return StepTimes(total_s, 0.1, 0.2, 0.3, 0.4, 0.5, 0.01, 0.02, 0.03, 0.6, 0.7)


def row(workers: int, total_s: float, payload_mb: float = 20.0) -> Row:
    steps = (step(total_s), step(10 * total_s), step(total_s / 2))
    return Row(workers, payload_mb, int(workers * payload_mb * 1e6), steps, (0.1, 0.3, 0.2), 1)


def test_a_step_is_timed_in_parts_that_add_up() -> None:
    steps = OverheadSteps(LocalExecutor(RuntimeConfig(), SleepProgram()), payload_mb=0.4)
    times = steps.step([0.0, 0.02])
    assert times.send_s + times.report_s + times.add_s + times.outer_s == pytest.approx(times.total_s)
    assert times.total_s >= 0.02
    assert times.pull_cpu_s + times.add_cpu_s + times.outer_cpu_s <= times.serial_s
    assert steps.payload == pytest.approx(4e5, rel=0.05)
    assert steps.server.version == 1
    # Plain gradient descent: two equal gradients over the weights 1 and 2.
    assert torch.allclose(steps.server.pull().params["layer0.bias"], torch.tensor(-OUTER.lr * 2e-3 / 3))


def test_numbers_follow_from_medians() -> None:
    result = row(2, 0.6)
    assert result.medians.total_s == 0.6
    assert result.ratio == pytest.approx(3.0)
    values = json.loads(json.dumps(result.to_json()))
    assert (values["workers"], values["payload_mb"], values["bytes"], values["steps"]) == (2, 20.0, 40_000_000, 3)
    assert values["x_copy"] * values["share_of_copy_bandwidth"] == pytest.approx(1.0)
    assert values["overhead_s"] == 0.6
    assert values["copy_s"] == 0.2
    assert values["seconds"] == [0.6, 6.0, 0.3]
    assert set(values["cpu_s"]) == {"pull_cpu_s", "add_cpu_s", "outer_cpu_s", "process_cpu_s", "worker_cpu_s"}


def test_growth_is_that_of_the_ratio() -> None:
    rows = [row(2, 0.2), row(4, 0.25), row(16, 0.6), row(32, 0.75), row(32, 0.1, 0.5)]
    assert growth(rows) == {(4, 20.0): pytest.approx(1.25), (32, 20.0): pytest.approx(1.25)}
    assert {name: goal.reached for name, goal in goals(rows[:2]).items()} == {"growth": True}
    assert {name: goal.reached for name, goal in goals(rows[2:4]).items()} == {"overhead": False, "growth": True}
    assert goals(rows[:1]) == {}
    assert [str(goal) for goal in goals([row(16, 0.2), row(32, 0.4)]).values()] == [
        "x copy at 32 workers and 20 MB: 2; goal <= 3: reached",
        "largest growth of x copy for twice the workers: 2; goal <= 1.5: NOT reached",
    ]
    lines = table(rows)
    assert len({tuple(line) for line in lines}) == 1
    assert lines[1] | {"x copy": "1.25", "x half": "1.25", "overhead": "250.0", "copy": "200.0"} == lines[1]
    assert [point[0] for point in curves(rows)["20 MB"]] == [2, 4, 16, 32]


def test_large_rows_have_few_steps_and_need_much_memory() -> None:
    assert [steps_for(size) for size in (1e6, 1e9, 1e12)] == [30, 8, 3]
    assert store_bytes(32, 200e6) > 32 * 200e6 / 0.8
    assert needed_bytes(32, 200e6) > needed_bytes(32, 20e6) > needed_bytes(2, 20e6) > store_bytes(2, 20e6)
    with pytest.raises(UserError, match=r"^--payload: no row fits: the smallest needs \d+ MB of memory, 1 MB are"):
        fitting([2, 4], [1.0, 20.0], usable=1_000_000)
    fit, left_out = fitting([8, 2], [200.0, 1.0], usable=needed_bytes(2, 200e6))
    assert fit == [(2, 1.0), (2, 200.0), (8, 1.0)]
    assert list(left_out) == [(8, 200.0)]


def test_copying_copies_all_of_it() -> None:
    copy = Copy(1000)
    copy.run()
    assert copy._target.sum() == 1000


def test_the_picture_is_written(tmp_path: Path) -> None:
    overhead_curves(tmp_path / "new" / "server.png", curves([row(2, 0.2), row(4, 0.3)]), 3.0, "a machine")
    assert (tmp_path / "new" / "server.png").read_bytes().startswith(b"\x89PNG")
