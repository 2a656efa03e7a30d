"""What `tune` draws, refuses and concludes; trials run in this process, one after the other."""

from __future__ import annotations

import pytest

import distmeta.runtime.ray.trials as ray_trials
from distmeta import train
from distmeta.config import RunConfig
from distmeta.config.load import change, load_config
from distmeta.config.space import Values
from distmeta.core.errors import DistmetaError, UserError
from distmeta.training.tuning import settings_of, tune

RUN = """
name: waves
tasks: {source: sinusoid}
model: {kind: mlp, hidden: [8, 8]}
algorithm: {learner: {kind: gradient, phases: [{steps: 2, lr: 0.01}]}}
runtime: {executor: local, shard_size: 2}
train: {steps: 3, tasks_per_step: 4}
evaluation: {every: 0, tasks: 8, final_tasks: 8}
checkpoint: {path: runs}
tracking: {kind: none}
"""
RATES = {"algorithm.learner.phases.0.lr": Values(grid=(0.01, 1e-9))}


@pytest.fixture
def config(tmp_path, monkeypatch) -> RunConfig:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waves.yaml").write_text(RUN)
    return load_config("waves.yaml")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    def run_trials(trial, count, *, shown, **options):
        answers = [trial(number) for number in range(count)]
        for number, answer in enumerate(answers):
            shown(number, answer)
        return answers

    monkeypatch.setattr(ray_trials, "run_trials", run_trials)


def test_settings_are_draws_times_cells():
    space = {"a": Values(grid=(1, 2)), "b": Values(uniform=(0.0, 1.0)), "c": Values(grid=("x", "y", "z"))}
    settings = settings_of(space, 3, seed=0)
    assert len(settings) == 18
    assert [list(setting) for setting in settings[:1]] == [["a", "b", "c"]]
    assert {(setting["a"], setting["c"]) for setting in settings[:6]} == {(a, c) for a in (1, 2) for c in "xyz"}
    assert len({setting["b"] for setting in settings[:6]}) == 1
    assert len({setting["b"] for setting in settings}) == 3
    assert settings_of(space, 2, seed=0) == settings[:12]
    assert settings_of(space, 3, seed=1) != settings


def test_draws_are_spread_evenly():
    drawn = [setting["a"] for setting in settings_of({"a": Values(uniform=(0.0, 1.0))}, 400, seed=3)]
    assert [sum(low <= value < low + 0.25 for value in drawn) for low in (0.0, 0.25, 0.5, 0.75)] == pytest.approx(
        [100] * 4, abs=30
    )


def test_the_best_setting_is_trained_as_by_hand(config):
    result = tune(config, RATES, quiet=True)
    first, second = result.trials
    assert first.metric == "loss"
    assert first.mean < second.mean
    rate = first.values["algorithm.learner.phases.0.lr"]
    by_hand = train(change(config, ["name=by_hand", f"algorithm.learner.phases.0.lr={rate}"]), quiet=True)
    assert result.best["digest"] == by_hand.digest
    assert result.best["scores"]


def test_a_failed_setting_leaves_the_others(config):
    rates = {"algorithm.learner.phases.0.lr": Values(grid=(1e9, 0.01))}
    result = tune(config, rates, quiet=True)
    assert [trial.number for trial in result.trials] == [1, 0]


def test_resumed_trials_are_not_run_again(config, monkeypatch):
    result = tune(config, RATES, quiet=True)
    with pytest.raises(UserError, match="there are checkpoints of waves-trial0, waves-trial1, waves"):
        tune(config, RATES, quiet=True)
    monkeypatch.setattr("distmeta.training.seed_run.train", lambda *_, **__: pytest.fail("trained again"))
    again = tune(config, RATES, resume=True, quiet=True)
    assert again == result


@pytest.mark.parametrize(
    ("field", "values", "what"),
    [
        ("algorithm.learner.phases.0.rate", Values(grid=(1,)), "unknown field 'rate'"),
        ("train.steps", Values(grid=(10, -1)), "-1 is not valid"),
        ("algorithm.learner.phases.3.lr", Values(grid=(1,)), "has no '3'"),
    ],
)
def test_an_impossible_space_starts_nothing(config, tmp_path, field, values, what):
    with pytest.raises(UserError, match=what):
        tune(config, {field: values}, quiet=True)
    assert not (tmp_path / "runs").exists()


def test_draws_from_grids_alone_are_refused(config):
    with pytest.raises(UserError, match="2 draws from grids alone"):
        tune(config, RATES, draws=2, quiet=True)


def test_all_failed(config, monkeypatch):
    def failing(*_, **__):
        raise DistmetaError("no luck")

    monkeypatch.setattr("distmeta.training.seed_run.train", failing)
    with pytest.raises(DistmetaError, match="all 2 trials have failed: no luck"):
        tune(config, RATES, quiet=True)
