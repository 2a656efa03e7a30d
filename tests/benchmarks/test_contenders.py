from __future__ import annotations

import pytest
from pydantic import ValidationError

from benchmarks.engine.common.contenders import (
    Status,
    check_contenders,
    eager_twin,
    make_contender,
    reason_of,
    thread_counts,
)
from benchmarks.engine.common.peers import PEERS
from benchmarks.engine.common.problems import PROBLEMS, find_problem, with_steps
from benchmarks.engine.common.trial import Trial, run_trial
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.engine.speed import Settings, bench_problem
from distmeta.config import EngineConfig, GradientConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Params

WAVES = PROBLEMS["sine_25x1"].resized(3)


def test_every_problem_can_be_made() -> None:
    for problem in PROBLEMS.values():
        workload = make_workload(problem.resized(1).config)
        assert workload.num_tasks == 1
        assert workload.meta


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


def test_compiled_contenders_are_warmed_up_by_a_loop() -> None:
    assert [eager_twin(name) for name in ("compiled/flat", "measured", "vmap", "higher")] == [
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


def test_the_choice_of_the_engine_is_recorded() -> None:
    choice = make_contender("auto", make_workload(WAVES.config), 1, 1).choice
    assert (choice["strategy"], choice["took_s"]) == ("vmap", 0.0)


@pytest.mark.parametrize("name", ["loop", "vmap"])
def test_lanes_do_not_change_the_gradient(name: str) -> None:
    workload = make_workload(WAVES.config)
    first, second = (make_contender(name, workload, 1, lanes).run() for lanes in (1, 2))
    assert all(bool((first[key] - second[key]).abs().max() < 1e-4) for key in first)


@pytest.mark.slow
def test_a_row_times_contenders_that_agree_and_names_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(workload: Workload) -> object:
        run = PEERS["plain_loop"](workload)
        return lambda: {name: 2 * tensor for name, tensor in run().items()}

    def broken(workload: Workload) -> object:
        def run() -> Params:
            raise RuntimeError("no")

        return run

    monkeypatch.setitem(PEERS, "higher", doubled)
    monkeypatch.setitem(PEERS, "torchopt", broken)
    row = bench_problem(WAVES, Settings(("higher", "torchopt", "vmap"), rounds=2, threads=1, peak_side=16))
    entries = {entry.contender: entry for entry in row.entries}
    assert list(entries) == ["plain_loop", "higher", "torchopt", "vmap"]
    assert [entry.status for entry in entries.values()] == ["ok", "disagrees", "failed", "ok"]
    assert entries["torchopt"].reason == "RuntimeError: no"
    assert entries["higher"].agreement is not None
    assert entries["higher"].agreement.error == pytest.approx(1.0, rel=1e-3)
    assert row.disagreeing == ["higher"]
    assert len(entries["vmap"].seconds) == 2
    assert entries["higher"].seconds == ()


@pytest.mark.slow
def test_a_trial_that_fails_or_takes_too_long_is_reported() -> None:
    assert run_trial(Trial(WAVES.config, "loop", 1, 1, 1), limit_s=0.05).status is Status.TOO_LONG
    result = run_trial(Trial(WAVES.config, "loop/nothing", 1, 1, 1), limit_s=120.0)
    assert result.status is Status.FAILED
    assert result.reason.startswith("EngineConfig.memory: unknown value 'nothing'")
