"""Bounds of fields: what is allowed is said, and no run that makes sense is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from distmeta.config import (
    GlyphTasks,
    GradientConfig,
    MlpConfig,
    OuterConfig,
    Phase,
    PrototypeConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
    TrainConfig,
)
from distmeta.config.algorithm import AlgorithmConfig
from distmeta.config.base import shortened, to_user_error
from distmeta.config.load import change
from distmeta.core.errors import UserError

SINUSOID = ("tasks.source=sinusoid", "model.kind=mlp")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "seed=18446744073709551616",
            "seed: 18446744073709551616 is not valid; allowed: less than or equal to 1844674",
        ),
        ("seed=1e30", "seed: 1e+30 is not valid; allowed: an integer"),
        ("seed=.inf", "seed: inf is not valid; allowed: a finite number"),
        ("seed=0x" + "f" * 5000, "seed: an integer of 20000 bits is not valid; allowed: less than or equal to 1844674"),
        ("seed=2001-12-14", "seed: '2001-12-14' is not valid; allowed: an integer"),
        ("seed=1:30", "seed: '1:30' is not valid; allowed: an integer"),
        (
            "train.tasks_per_step=1e12",
            "train.tasks_per_step: 1000000000000.0 is not valid; allowed: less than or equal",
        ),
        (
            "train.steps=1e13",
            "train.steps: 10000000000000.0 is not valid; allowed: less than or equal to 1000000000000",
        ),
        ("train.budget_s=1e300", "train.budget_s: 1e+300 is not valid; allowed: less than or equal to 1000000000"),
        (
            "evaluation.tasks=1e12",
            "evaluation.tasks: 1000000000000.0 is not valid; allowed: less than or equal to 1000",
        ),
        ("evaluation.final_tasks=1e12", "evaluation.final_tasks: 1000000000000.0 is not valid; allowed: less than or "),
        ("runtime.shard_size=1e12", "runtime.shard_size: 1000000000000.0 is not valid; allowed: less than or equal to"),
        ("runtime.threads_per_worker=1099511627776", "runtime.threads_per_worker: 1099511627776 is not valid; allowed"),
        (
            "runtime.workers=1099511627776",
            "runtime.workers: '1099511627776' is not a number of workers; allowed: a who",
        ),
        ("runtime.workers=1..1099511627776", "runtime.workers: '1..1099511627776' is not a number of workers"),
        ("runtime.workers=1.." + "9" * 5000, "runtime.workers: '1..9999"),
        ("runtime.workers=\uff11", "runtime.workers: '\uff11' is not a number of workers"),
        ("runtime.workers=[[2]]", "runtime.workers: '[[2]]' is not a number of workers"),
        ("runtime.cpus_per_worker=1e300", "runtime.cpus_per_worker: 1e+300 is not valid; allowed: less than or equal"),
        ("runtime.tolerance.shard_timeout_s=1e300", "runtime.tolerance.shard_timeout_s: 1e+300 is not valid"),
        ("runtime.device=cuda:9999", "runtime.device: unknown device 'cuda:9999'; allowed: cpu, cuda, cuda:N"),
        ("model.filters=1000000000", "model.filters: 1000000000 is not valid; allowed: less than or equal to 4096"),
        ("tasks.way=1e12", "tasks.way: 1000000000000.0 is not valid; allowed: less than or equal to 1000000"),
        ("tasks.shots=1e12", "tasks.shots: 1000000000000.0 is not valid; allowed: less than or equal to 1000000"),
        (
            "tasks.shots=200000",
            "runtime.shard_size 16 puts 16001200 examples into a shard, 1000075 of each task; allow",
        ),
        ("algorithm.learner.phases.0.steps=1e12", "algorithm.learner.phases.0.steps: 1000000000000.0 is not valid"),
        ("outer.options={1: 2}", "outer.options.1: 1 is not valid; allowed: a string"),
        ("tracking.experiment=", "tracking.experiment: None is not valid; allowed: a string"),
        ("tracking.experiment=''", "tracking.experiment: '' is not valid; allowed: at least 1 character"),
        ("tracking.experiment=" + "e" * 300, "tracking.experiment: 'eeee"),
        ("tracking.uri=http://[::1", "tracking.uri: it cannot be parsed as a URL; allowed: a path, or SCHEME://HOST:P"),
        ("tracking.uri=http://head:port", "tracking.uri: it cannot be parsed as a URL"),
        ("tracking.uri=" + "x" * 5000, "tracking.uri: 5000 characters; allowed: at most 4096"),
        ("checkpoint.path=http://[::1", "checkpoint.path: it cannot be parsed as a URL"),
        ('checkpoint.path="a\\0b"', "checkpoint.path: the character '\\x00' is not printable; allowed: printable text"),
        ('tasks.store="a\\nb"', "tasks.store: the character '\\n' is not printable"),
        ("name=" + "n" * 300, "name: 'nnnn"),
    ],
)
def test_what_is_refused(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        change(RunConfig(name="run"), [override])
    assert str(caught.value).startswith(f"--set: {line}")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.hidden=[1000000000]", "model: hidden makes 3000000001 parameters or more; allowed: at most 1000000000"),
        ("model.hidden=[100000, 100000]", "model: hidden makes 10000400001 parameters or more"),
        ("model.hidden=[" + "4, " * 2000 + "4]", "model.hidden: [4, 4, 4"),
        (
            "tasks.amplitude=[0, 1e308]",
            "tasks.amplitude.1: 1e+308 is not valid; allowed: less than or equal to 10000000",
        ),
        ("tasks.shots=1e12", "tasks.shots: 1000000000000.0 is not valid; allowed: less than or equal to 1000000"),
    ],
)
def test_what_is_refused_of_a_sinusoid(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        change(RunConfig(name="run"), [*SINUSOID, override])
    assert str(caught.value).startswith(f"--set: {line}")


def test_large_runs_are_allowed() -> None:
    RunConfig(
        name="n" * 128,
        seed=2**64 - 1,
        tasks=GlyphTasks(way=20, shots=5, queries=15, train_way=60),
        algorithm=AlgorithmConfig(learner=PrototypeConfig()),
        outer=OuterConfig(options={"eps": 1e-12, "foreach": True}),
        runtime=RuntimeConfig(workers="1..10000", threads_per_worker=256, shard_size=1024),
        train=TrainConfig(steps=10**9, tasks_per_step=100_000),
    )
    RunConfig(
        name="run",
        tasks=SinusoidTasks(shots=10_000),
        model=MlpConfig(hidden=(4096,) * 40),
        algorithm=AlgorithmConfig(learner=GradientConfig(phases=(Phase(steps=10_000),))),
    )
    passwords = ("postgresql://me:p#w/x@host:5432/db", "postgresql+psycopg://me:a:b@host/db", "sqlite:///a b.db")
    for uri in passwords:
        assert change(RunConfig(name="run"), [f"tracking.uri='{uri}'"]).tracking.uri == uri


@pytest.mark.timeout(10)
def test_a_value_that_grows_is_shown_in_bounded_time() -> None:
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    assert len(shortened(value)) < 70
    recursive: list[Any] = []
    recursive.append(recursive)
    assert shortened(recursive) == "[[[[[...]]]]]"
    assert shortened(10**5000) == "an integer of 16610 bits"
    assert shortened("'" * 1000).endswith("...")
    with pytest.raises(ValidationError) as caught:
        RunConfig(name=value)
    assert len(str(to_user_error(caught.value))) < 150


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["algorithm.learner.phases.².lr=1"], "algorithm.learner.phases has no '²'; allowed: a position: 0 to 0"),
        ([f"algorithm.learner.phases.{'9' * 30}.lr=1"], "algorithm.learner.phases has no '999"),
        (["outer.options.betas.0=0.5"], "outer.options.betas has no value yet; allowed: outer.options.betas=value"),
        (["model={kind: mlp}", "model.hidden.0=3"], "model.hidden has no value yet"),
        (["seed={a: {b: 1}}", "seed.a.b=2"], "seed: {'a': {'b': 2}} is not valid; allowed: an integer"),
        (["tasks=[[1]]", "tasks.0.x.y=3"], "tasks.0 has no 'x'"),
    ],
)
def test_overrides_of_what_is_not_there(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        change(RunConfig(name="run"), overrides)
    assert line in str(caught.value)
