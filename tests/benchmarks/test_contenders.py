from __future__ import annotations

import pytest
from pydantic import ValidationError

from benchmarks.engine.cell import FAILED, TOO_LONG, Cell, run_cell
from benchmarks.engine.contenders import check_contenders, eager_twin, make_contender, reason_of, thread_counts
from benchmarks.engine.peers import PEERS
from benchmarks.engine.problems import PROBLEMS, find_problem, with_steps
from benchmarks.engine.results import DISAGREES, OK
from benchmarks.engine.results import FAILED as ROW_FAILED
from benchmarks.engine.speed import Settings, bench_problem
from benchmarks.engine.work import Work, make_work
from distmeta.config import EngineConfig, GradientConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Params

WAVES = PROBLEMS["sine_25x1"].resized(3)


def test_every_problem_can_be_made() -> None:
    for problem in PROBLEMS.values():
        work = make_work(problem.resized(1).config)
        assert work.num_tasks == 1
        assert work.meta


def test_steps_are_those_asked_for_in_every_phase() -> None:
    learner = with_steps(PROBLEMS["anil_conv4"].config, 7).algorithm.learner
    assert isinstance(learner, GradientConfig)
    assert [phase.steps for phase in learner.phases] == [7]
    prototypes = PROBLEMS["protonet_conv4"].config
    assert with_steps(prototypes, 7) is prototypes


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"--rows: unknown row 'sine'.*sine_25x1"):
        find_problem("sine", "--rows")
    with pytest.raises(UserError, match=r"--contenders: unknown contender 'vmpa'; allowed: did you mean 'vmap'\?"):
        check_contenders(["higher", "vmpa"], "--contenders")


def test_peers_are_tried_with_one_thread_and_with_all() -> None:
    assert thread_counts("higher", 4) == [1, 4]
    assert thread_counts("higher", 1) == [1]
    assert thread_counts("vmap", 4) == [4]


def test_who_would_compile_is_warmed_up_by_a_loop() -> None:
    assert [eager_twin(name) for name in ("compiled/flat", "auto", "vmap", "higher")] == [
        "loop",
        "loop",
        "vmap",
        "higher",
    ]


def test_a_reason_is_one_short_line() -> None:
    assert reason_of(RuntimeError("\nfirst\nsecond")) == "RuntimeError: first"
    assert reason_of(UserError("bad", where="here")) == "here: bad"
    assert len(reason_of(RuntimeError("x" * 999))) < 250
    with pytest.raises(ValidationError) as raised:
        EngineConfig.model_validate({"strategy": "fast"})
    assert reason_of(raised.value).startswith("EngineConfig.strategy: unknown value 'fast'")


@pytest.mark.parametrize("name", ["loop", "vmap"])
def test_lanes_leave_the_signal_as_it_is(name: str) -> None:
    work = make_work(WAVES.config)
    one, two = (make_contender(name, work, 1, lanes).run() for lanes in (1, 2))
    assert all(bool((one[key] - two[key]).abs().max() < 1e-4) for key in one)


def test_a_row_times_who_agrees_and_names_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(work: Work) -> object:
        run = PEERS["plain_loop"](work)
        return lambda: {name: 2 * tensor for name, tensor in run().items()}

    def broken(work: Work) -> object:
        def run() -> Params:
            raise RuntimeError("no")

        return run

    monkeypatch.setitem(PEERS, "higher", doubled)
    monkeypatch.setitem(PEERS, "torchopt", broken)
    row = bench_problem(WAVES, Settings(("higher", "torchopt", "vmap"), rounds=2, threads=1, peak_side=16))
    found = {entry.contender: entry for entry in row.entries}
    assert list(found) == ["plain_loop", "higher", "torchopt", "vmap"]
    assert [entry.status for entry in found.values()] == [OK, DISAGREES, ROW_FAILED, OK]
    assert found["torchopt"].reason == "RuntimeError: no"
    assert found["higher"].agreement is not None
    assert found["higher"].agreement.error == pytest.approx(1.0, rel=1e-3)
    assert row.disagreeing == ["higher"]
    assert len(found["vmap"].seconds) == 2
    assert found["higher"].seconds == ()


def test_a_cell_that_fails_or_takes_too_long_says_so() -> None:
    good = Cell(WAVES.config.model_dump_json(), "loop", 1, 1, 1)
    assert run_cell(good, limit_s=0.05).status == TOO_LONG
    broken = Cell(WAVES.config.model_dump_json(), "loop/nothing", 1, 1, 1)
    measured = run_cell(broken, limit_s=120.0)
    assert measured.status == FAILED
    assert measured.reason.startswith("EngineConfig.memory: unknown value 'nothing'")
