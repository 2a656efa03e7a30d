"""What follows from steps that were timed, the sizes of things, and steps in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.cluster.curves import overhead_curves
from benchmarks.cluster.payload import (
    OUTER,
    PayloadRecipe,
    Step,
    heap_bytes,
    make_params,
    make_shards,
    medians,
    ready_made,
    run_step,
    sleep_of,
)
from benchmarks.cluster.server import (
    Copy,
    Row,
    curves,
    fitting,
    goals,
    growth,
    needed_bytes,
    steps_for,
    store_bytes,
    table,
    verdicts,
)
from distmeta.config import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.runtime.local import LocalExecutor
from distmeta.server import ParameterServer


def step(total_s: float) -> Step:
    return Step(total_s, 0.1, 0.2, 0.3, 0.4, 0.5, 0.01, 0.02, 0.03, 0.6, 0.7)


def row(workers: int, total_s: float, payload_mb: float = 20.0) -> Row:
    steps = (step(total_s), step(10 * total_s), step(total_s / 2))
    return Row(workers, payload_mb, int(workers * payload_mb * 1e6), steps, (0.1, 0.3, 0.2), 1)


def test_a_step_is_timed_in_parts_that_add_up() -> None:
    params = make_params(400_000)
    server = ParameterServer(params, OUTER, total_steps=1)
    executor = LocalExecutor(RuntimeConfig(), PayloadRecipe())
    shards = make_shards([0.0, 0.02])
    assert [sleep_of(shard) for shard in shards] == [0.0, pytest.approx(0.02)]
    found = run_step(server, executor, shards)
    executor.close()
    assert found.send_s + found.report_s + found.add_s + found.outer_s == pytest.approx(found.total_s)
    assert found.total_s >= 0.02
    assert found.pull_cpu_s + found.add_cpu_s + found.outer_cpu_s <= found.serial_s
    assert server.version == 1
    # Plain gradient descent with the mean of two equal updates.
    assert torch.allclose(server.pull().params["layer0.bias"], torch.tensor(-OUTER.lr * 1e-3))


def test_parameters_have_the_size_asked_for() -> None:
    for size in (1e5, 2e7):
        assert sum(tensor.nbytes for tensor in make_params(int(size)).values()) == pytest.approx(size, rel=0.05)


def test_a_large_update_shares_its_memory_among_layers() -> None:
    small, large = ready_made(make_params(100_000)), ready_made(make_params(40_000_000))
    assert len({tensor.data_ptr() for tensor in small.values()}) == len(small)
    assert len({tensor.data_ptr() for tensor in large.values()}) == 1
    assert heap_bytes(1e6) == 1e6
    assert heap_bytes(80e6) == 10e6


def test_numbers_follow_from_medians() -> None:
    found = row(2, 0.6)
    assert medians(found.steps).total_s == found.overhead_s == 0.6
    assert found.ratio == pytest.approx(3.0)
    values = json.loads(json.dumps(found.to_json()))
    assert (values["workers"], values["payload_mb"], values["bytes"], values["steps"]) == (2, 20.0, 40_000_000, 3)
    assert values["x_copy"] * values["share_of_copy_bandwidth"] == pytest.approx(1.0)
    assert values["copy_s"] == 0.2
    assert values["seconds"] == [0.6, 6.0, 0.3]
    assert set(values["cpu_s"]) == {"pull_cpu_s", "add_cpu_s", "outer_cpu_s", "process_cpu_s", "worker_cpu_s"}


def test_growth_is_that_of_the_ratio() -> None:
    rows = [row(2, 0.2), row(4, 0.25), row(16, 0.6), row(32, 0.75), row(32, 0.1, 0.5)]
    assert growth(rows) == {(4, 20.0): pytest.approx(1.25), (32, 20.0): pytest.approx(1.25)}
    assert goals(rows[:2]) == {"overhead": None, "growth": True}
    assert goals(rows[2:4]) == {"overhead": False, "growth": True}
    assert goals(rows[:1]) == {"overhead": None, "growth": None}
    assert verdicts(rows[:1]) == []
    first, second = verdicts([row(16, 0.2), row(32, 0.4)])
    assert first == "overhead at 32 workers and 20 MB: at most 3 x copying once: yes"
    assert second == "growth of x copy for twice the workers: at most 1.5 x: no (worst 2.00)"
    lines = table(rows)
    assert len({tuple(line) for line in lines}) == 1
    assert lines[1] | {"x copy": "1.25", "x half": "1.25", "overhead": "250.0", "copy": "200.0"} == lines[1]
    assert curves(rows)["20 MB"][0] == [2, 4, 16, 32]


def test_large_rows_have_few_steps_and_need_much_memory() -> None:
    assert [steps_for(size) for size in (1e6, 1e9, 1e12)] == [30, 8, 3]
    assert store_bytes(32, 200e6) > 32 * 200e6 / 0.8
    assert needed_bytes(32, 200e6) > needed_bytes(32, 20e6) > needed_bytes(2, 20e6) > store_bytes(2, 20e6)
    with pytest.raises(UserError, match=r"^--payload: no row fits: the smallest needs \d+ MB of memory, 1 MB are"):
        fitting([2, 4], [1.0, 20.0], memory_bytes=1_000_000)
    fit, refused = fitting([8, 2], [200.0, 1.0], memory_bytes=needed_bytes(2, 200e6))
    assert fit == [(2, 1.0), (2, 200.0), (8, 1.0)]
    assert [(one.workers, one.payload_mb) for one in refused] == [(8, 200.0)]


def test_copying_copies_all_of_it() -> None:
    copy = Copy(1000)
    copy.run()
    assert copy._target.sum() == 1000


def test_the_picture_is_written(tmp_path: Path) -> None:
    overhead_curves(tmp_path / "new" / "server.png", curves([row(2, 0.2), row(4, 0.3)]), 3.0, "a machine")
    assert (tmp_path / "new" / "server.png").read_bytes().startswith(b"\x89PNG")
