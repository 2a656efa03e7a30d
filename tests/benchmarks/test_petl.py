"""`distmeta bench petl` on a tiny random BERT and invented texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.commands import petl as command
from benchmarks.engine.common.contenders import Status
from benchmarks.engine.common.trial import TrialResult
from benchmarks.petl import gpu, memory, problems
from benchmarks.petl.peers import by_peft, padded_places
from benchmarks.petl.problems import Problem
from benchmarks.petl.results import goals
from benchmarks.petl.speed import Settings, bench_problem, check_contenders, engine_run, started_workload
from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.data.store import write_store
from distmeta.methods import maml

from ..packages import needs
from .test_commands import is_picture, last_object, run

pytestmark = needs("peft")
TINY = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 32, "vocab_size": 64, "max_position_embeddings": 64}


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    """Three tasks over 4 classes of 20 texts; text e of class c has 2 + (c + 5 e) % 12 words."""
    texts = [
        " ".join(f"w{(c + e * k) % 20}" for k in range(2 + (c + 5 * e) % 12)) for c in range(10) for e in range(20)
    ]
    splits = {"all": {"train": [0, 1, 2, 3], "val": [4, 5, 6], "test": [7, 8, 9]}}
    names = [f"c{c}" for c in range(10)]
    store = write_store(tmp_path / "texts", texts, class_names=names, class_counts=[20] * 10, splits=splits)
    network = (("architecture", TINY),)
    where = {"store": str(store.path), "split_set": None, "tokenizer": "words", "network": network}
    return Problem("tiny", way=3, shots=2, queries=2, tasks=3, order=2, steps=2, **where)


def error_of(actual: Params, expected: Params) -> float:
    difference = sum(float((actual[name].double() - expected[name]).square().sum()) for name in expected)
    return (difference / sum(float(tensor.square().sum()) for tensor in expected.values())) ** 0.5


@pytest.mark.parametrize("order", [1, 2])
def test_the_loop_over_peft_and_the_engine_give_the_same_gradient(problem: Problem, order: int) -> None:
    workload = started_workload(replace(problem, order=order))
    reference = by_peft(workload.as_type(torch.float64))()
    assert all(bool(tensor.any()) for tensor in reference.values()), "every parameter has a gradient"
    engines = [engine_run(name, workload, 1) for name in ("loop", "vmap", "vmap/2", "auto")]
    for gradient_of in (by_peft(workload), *engines):
        assert error_of(gradient_of(), reference) < 1e-5
    other = by_peft(started_workload(replace(problem, order=3 - order)).as_type(torch.float64))()
    assert error_of(other, reference) > 1e-3, "the orders differ"


@pytest.mark.slow
def test_a_row_has_ratios_and_padding(problem: Problem) -> None:
    contenders = check_contenders(["peft_loop/sdpa", "loop", "vmap/2"], "--contenders")
    row = bench_problem(problem, Settings(contenders, rounds=2, threads=1))
    assert [entry.contender for entry in row.entries] == ["peft_loop", *contenders]
    peer, sdpa, loop, vmap = row.entries
    assert (sdpa.status, sdpa.reason) == (Status.LEFT_OUT, "fused attention has no second derivative")
    assert row.numbers(peer)["x_peft_loop"] == 1.0
    assert all(entry.agreement is not None and entry.agreement.error < 1e-4 for entry in (peer, loop, vmap))
    workload = started_workload(problem)
    assert row.tokens == sum(int((batch.inputs != 0).sum()) for batch in workload.episodes.roles.values())
    assert peer.places == padded_places(workload) > row.tokens
    assert loop.places == vmap.places >= row.tokens
    for entry in (loop, vmap):
        numbers = row.numbers(entry)
        ratios = sorted(theirs / own for theirs, own in zip(peer.seconds, entry.seconds, strict=True))
        assert numbers["x_peft_loop"] == pytest.approx(sum(ratios) / 2)
        assert numbers["padding"] == pytest.approx(1 - row.tokens / entry.places)
    (slowest,) = goals([row])
    assert slowest.what == "slowest row, tiny: x peft loop"
    assert slowest.value == row.best


@pytest.mark.slow
def test_from_the_command_to_json_and_a_picture(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(problems, "PROBLEMS", {"tiny": problem})
    monkeypatch.setattr(memory, "run_apart", lambda work, limit_s, limit_mib: work())  # a process costs seconds
    arguments = ["bench", "petl", "--rows", "tiny", "--rounds", "2", "--threads", "1", "--contenders", "vmap"]
    swept = ["--no-group", "--memory-tasks", "1,2", "--memory-steps", "1,18"]
    assert run([*arguments, *swept, "--json", "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    result = last_object(captured.out)
    assert {"machine", "busy_before", "settings", "goals", "left_out"} <= set(result)
    assert result["agree"] is True
    (row,) = result["rows"]
    assert (row["row"], row["tasks"], row["order"]) == ("tiny", 3, 2)
    assert [(each["contender"], each["status"]) for each in row["contenders"]] == [("peft_loop", "ok"), ("vmap", "ok")]
    assert all(each["tokens_per_s"] > 0 and each["tasks_per_s"] > 0 for each in row["contenders"])
    cells = [(cell["kind"], cell["contender"], cell["count"]) for cell in result["memory"]["cells"]]
    tasks = [("tasks", name, count) for name in ("vmap", "loop") for count in (1, 2)]
    assert cells == [*tasks, ("steps", "loop/flat", 1), ("steps", "loop/flat", 18)]
    assert all(cell["status"] == "ok" and cell["norm"] > 0 for cell in result["memory"]["cells"])
    assert json.loads((tmp_path / "out" / "bench_petl.json").read_text())["rows"] == result["rows"]
    assert is_picture(tmp_path / "out" / "bench_petl.png")


def test_a_wrong_gradient_is_not_timed(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.petl import speed

    right = speed.engine_run

    def wrong(*arguments: Any) -> Any:
        run = right(*arguments)
        return lambda: {name: 1.1 * tensor for name, tensor in run().items()}

    monkeypatch.setattr(speed, "engine_run", wrong)
    row = bench_problem(problem, Settings(("loop",), rounds=2, threads=1))
    assert row.disagreeing == ["loop"]
    assert row.entries[1].seconds == ()


def test_memory_of_further_tasks_and_of_more_steps() -> None:
    def point(kind: str, name: str, count: int, peak: float) -> memory.Point:
        return memory.Point(kind, name, count, TrialResult(Status.OK, peak_mib=peak, seconds_per_task=0.1), 100)

    points = [point("tasks", "vmap", count, 10.0 + 8.0 * count) for count in (1, 4, 16)]
    points += [point("steps", "loop/flat", 5, 20.0), point("steps", "loop/flat", 100, 25.0)]
    assert memory.added_bytes(points, "vmap") == {4: 8.0 * 2**20, 16: 8.0 * 2**20}
    assert memory.growth(points) == 1.25
    further, grown = memory.goals(points)
    assert (further.value, grown.value) == (8 / 18, 1.25)


def test_the_method_of_the_memory_rows_is_adam_on_the_adapter_in_flat_memory(problem: Problem) -> None:
    config = memory.with_adam(problem.config, 100)
    (phase,) = config.algorithm.learner.phases  # type: ignore[union-attr]
    assert (phase.optimizer, phase.steps, phase.groups) == ("adam", 100, ("lora",))
    assert config.engine.memory == "flat"
    assert config.algorithm.estimator == maml().estimator


@pytest.mark.slow
def test_a_large_network_and_resident_adapters(problem: Problem) -> None:
    result = gpu.measure_large(problem, TINY, adapters=50, rounds=1, peak_side=64)
    assert result.adapters == 50
    meta = started_workload(problem).meta
    assert result.alone_mib * 2**20 == 50 * sum(tensor.nbytes for tensor in meta.values())
    assert result.num_weights > 64 * 16
    assert result.step_s > 0
    assert result.share_of_peak == result.tera_flops / result.peak_tera_flops > 0


def test_the_rows_of_a_group_and_of_a_large_network_exist() -> None:
    assert {problems.GROUP_ROW, problems.LARGE_ROW} <= set(problems.PROBLEMS)


def test_the_help_names_rows_and_contenders() -> None:
    assert "5w1s_t16_o2_k1" in command.PETL_HELP
    assert "peft_loop/sdpa" in command.PETL_HELP


@pytest.mark.parametrize("name", ["vmap/", "vmap/0", "loop/2", "peft"])
def test_unknown_contenders_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown contender"):
        check_contenders([name], "--contenders")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rows", "5w1s"], ("--rows: unknown row '5w1s'", "5w1s_t1_o2_k1")),
        (["--contenders", "peft_lop"], ("--contenders: unknown contender 'peft_lop'", "peft_loop")),
        (["--memory-steps", "0"], ("--memory-steps: '0'", "positive whole numbers")),
        (["--device", "gpu"], ("--device: no device 'gpu' here", "allowed: cpu")),
        (["--tasks", "0"], ("'--tasks'", "greater than or equal to 1")),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "petl", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in expected)
