"""Valid and invalid values of `runtime.workers`."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from distmeta.config import RunConfig, RuntimeConfig


@pytest.mark.parametrize(
    ("value", "minimum", "maximum"), [(2, 2, 2), ("3", 3, 3), ("1..4", 1, 4), ("2..2", 2, 2), ("10..200", 10, 200)]
)
def test_a_number_or_a_range(value: int | str, minimum: int, maximum: int) -> None:
    config = RuntimeConfig(workers=value)
    assert (config.min_workers, config.max_workers) == (minimum, maximum)
    assert RuntimeConfig.model_validate_json(config.model_dump_json()) == config


def test_auto_is_kept_until_the_cluster_is_known() -> None:
    config = RuntimeConfig(workers="auto", leaders=3)
    assert (config.workers, config.min_workers) == ("auto", 1)
    assert RuntimeConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "x", "4..2", "0..3", "1..", "..3", "1...3", None])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(
        ValidationError,
        match=r"is not a number of workers; allowed: a whole number from 1 to 100000, MIN\.\.MAX, or auto",
    ):
        RuntimeConfig(workers=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": 2, "executor": "local"}, "runtime.ranks 2 needs runtime.executor 'ray'"),
        ({"ranks": 2, "threads_per_worker": 2}, "runtime.ranks 2 needs runtime.threads_per_worker 1"),
        ({"ranks": 2, "device": "cuda", "gpus_per_worker": 0.5}, "on 'cuda' needs a GPU for each rank"),
        ({"ranks": 2, "device": "cuda:1", "gpus_per_worker": 1}, "on 'cuda:1' needs a GPU for each rank"),
        ({"partition": {"offload": "nvme"}}, "partition.nvme_path is the folder"),
        ({"partition": {"nvme_path": "/x"}}, "partition.nvme_path is the folder"),
    ],
)
def test_ranks_that_cannot_work_together_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RuntimeConfig.model_validate(fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "mlp"}}, "runtime.ranks 2 divides frozen weights, of which model.kind 'mlp' has none"),
        ({"engine": {"strategy": "compiled"}}, "engine.strategy 'compiled' cannot gather the weights"),
        ({"engine": {"strategy": "measured"}}, "engine.strategy 'measured' cannot gather the weights"),
    ],
)
def test_ranks_need_frozen_weights_and_a_strategy_that_gathers_them(changes: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "name": "x",
        "tasks": {"source": "sinusoid"},
        "model": {"kind": "python", "target": "net.py:Net"},
        "runtime": {"ranks": 2},
    }
    RunConfig.model_validate(fields)
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("engine", "runtime", "message"),
    [
        (3, {"threads_per_worker": 4}, "engine.threads_per_chunk 3 does not divide runtime.threads_per_worker 4"),
        (2, {}, "allowed: 1"),
        (2, {"threads_per_worker": 2, "device": "cuda"}, "is not for runtime.device 'cuda'; allowed: 1"),
    ],
)
def test_the_threads_of_a_chunk_divide_those_of_a_worker(engine: int, runtime: dict[str, object], message: str) -> None:
    fields = {"name": "x", "tasks": {"source": "sinusoid"}, "model": {"kind": "mlp"}}
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate({**fields, "engine": {"threads_per_chunk": engine}, "runtime": runtime})


ZERO: dict[str, object] = {
    "name": "x",
    "tasks": {"source": "sinusoid"},
    "model": {"kind": "mlp"},
    "algorithm": {"estimator": {"kind": "displacement"}},
    "outer": {"zero": 2},
    "runtime": {"workers": 1, "ranks": 2},
}


@pytest.mark.parametrize("leaders", ["auto", 0, 2, "2"])
def test_leaders_are_a_number_or_auto(leaders: object) -> None:
    found = RuntimeConfig(workers=4, leaders=leaders).leaders  # type: ignore[arg-type]
    assert found == ("auto" if leaders == "auto" else int(str(leaders)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"leaders": -1}, "-1 is not a number of leaders; allowed: auto, or a number below 10000"),
        ({"leaders": "few"}, "'few' is not a number of leaders"),
        ({"leaders": True}, "True is not a number of leaders"),
        (
            {"leaders": 3},
            "runtime.leaders 3 needs as many workers at least, runtime.workers is 2; allowed",
        ),
        ({"leaders": 1, "executor": "local"}, "runtime.leaders 1 needs runtime.executor 'ray'; allowed here: auto, 0"),
        ({"leaders": 1, "ranks": 2}, "runtime.leaders 1 needs runtime.ranks 1; allowed here: auto, 0"),
    ],
)
def test_leaders_without_workers_to_lead_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RuntimeConfig.model_validate({"workers": 2, **fields})
    assert message in str(refused.value)


def test_leaders_are_refused_where_steps_have_no_groups() -> None:
    first_order = {"estimator": {"kind": "backprop", "order": 1}}
    asynchronous = {**ZERO, "algorithm": first_order, "outer": {"staleness": 1}, "runtime": {"workers": 2}}
    with pytest.raises(ValidationError, match=r"runtime\.leaders 2 adds groups of a step's shards, which outer"):
        RunConfig.model_validate({**asynchronous, "runtime": {"workers": 2, "leaders": 2}})
    assert RunConfig.model_validate(asynchronous).runtime.leaders == "auto"


def test_ranks_of_one_worker_may_hold_the_meta_parameters() -> None:
    config = RunConfig.model_validate(ZERO)
    assert (config.outer.procedure, config.outer.fixes_ranks) == ("zero", False)
    assert RunConfig.model_validate({**ZERO, "runtime": {"executor": "local"}}).outer.zero == 2
    first_order = {"estimator": {"kind": "backprop", "order": 1}}
    assert RunConfig.model_validate({**ZERO, "algorithm": first_order}).outer.zero == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": {"workers": 2}}, "outer.zero 2 keeps the meta-parameters in one worker, but runtime.workers is 2"),
        ({"runtime": {"workers": "1..3"}}, "but runtime.workers is 1..3; allowed: 1, of several runtime.ranks"),
        ({"runtime": {"workers": 1, "threads_per_worker": 2}}, "outer.zero 2 needs runtime.threads_per_worker 1"),
        ({"algorithm": {"estimator": {"kind": "backprop"}}}, "outer.zero 2 takes signals of first order"),
        ({"algorithm": {**ZERO["algorithm"], "fixed": ["body"]}}, "but algorithm.fixed takes body out"),
        ({"engine": {"dtype": "float64"}}, "outer.zero 2 needs engine.dtype 'float32', not 'float64'"),
        ({"outer": {"zero": 3}}, "Input should be 1 or 2"),
        ({"outer": {"zero": 2, "optimizer": "RMSprop"}}, "not go with outer.optimizer 'RMSprop'; allowed: Adam, AdamW"),
        ({"outer": {"zero": 2, "staleness": 1}}, "outer.zero 2 does not go with outer.staleness 1; allowed: null"),
        ({"outer": {"zero": 2, "compression": "bf16"}}, "not go with outer.compression 'bf16'; allowed: none"),
        ({"outer": {"zero": 2, "average": 0.9}}, "outer.zero 2 does not go with outer.average 0.9; allowed: 0"),
        ({"outer": {"zero": 2, "nonfinite": "drop"}}, "does not go with outer.nonfinite 'drop'; allowed: abort"),
    ],
)
def test_what_ranks_with_the_meta_parameters_cannot_do_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate({**ZERO, **changes})
    assert message in str(refused.value)
