"""The default strategy is chosen by shapes alone: no clock, no cache, no number of threads decides about bits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from distmeta.config import EngineConfig, RunConfig
from distmeta.config.load import change, load_config
from distmeta.engine.auto import choose_by_shapes
from distmeta.program import program as module
from distmeta.program.program import MetaProgram
from distmeta.training import train

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        (["tasks={source: sinusoid}", "model={kind: mlp}"], "vmap"),
        (["tasks={source: glyphs, queries: 15}"], "loop"),
        (["tasks={source: glyphs, queries: 2}"], "vmap"),
        (["tasks={source: glyphs, queries: 2, shots: 5}"], "loop"),
    ],
)
def test_the_choice_follows_the_network_and_the_size_of_a_task(changes: list[str], strategy: str) -> None:
    program = MetaProgram(change(RunConfig(name="a"), changes))
    choice = program.choose_by_shapes()
    assert (choice.strategy, choice.chunk, choice.memory) == (strategy, None, "auto")
    assert choice.reason == f"engine: {strategy}, by the network, the size of a task and the device"
    program.close()


@pytest.mark.parametrize(
    ("device", "strategy"), [("cpu", "loop"), ("cuda", "vmap"), ("cuda:3", "vmap"), ("mps", "loop")]
)
def test_the_rule_is_that_of_the_kind_of_device(device: str, strategy: str) -> None:
    program = MetaProgram(change(RunConfig(name="a"), ["tasks={source: glyphs, queries: 15}"]))
    meta, episodes = program.algorithm.learner.init(0), program.episodes(program.source.specs("train", 0, 1))
    assert choose_by_shapes(EngineConfig(), meta, episodes, device=device).strategy == strategy
    assert choose_by_shapes(EngineConfig(), meta, episodes, device=device, vmap=False).strategy == "loop"
    program.close()


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_the_driver_chooses_for_the_device_of_the_workers(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_policy", lambda *_: None)  # asks the GPU
    changes = ["tasks={source: glyphs, queries: 15}", f"runtime.device={device}"]
    program = MetaProgram(change(RunConfig(name="a"), changes))
    assert program.choose_by_shapes().strategy == {"cpu": "loop", "cuda:1": "vmap"}[device]
    program.close()


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    return load_config(
        f"{JOBS / 'sinusoid.py'}:maml",
        [
            "train.steps=6",
            "train.tasks_per_step=8",
            "runtime.shard_size=4",
            "runtime.executor=local",
            "evaluation.every=0",
            "evaluation.final_tasks=0",
            "tracking.kind=none",
            f"checkpoint.path={tmp_path}",
        ],
    )


@pytest.mark.slow
def test_threads_load_length_and_history_change_no_bit(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {train(base, quiet=True).digest}
    digests.add(train(change(base, ["name=threads", "runtime.threads_per_worker=2"]), quiet=True).digest)
    train(change(base, ["name=longer", "train.steps=40"]), quiet=True)
    digests.add(train(change(base, ["name=after"]), quiet=True).digest)

    def slow(*arguments: object) -> torch.Tensor:
        time.sleep(0.01)
        return plain(*arguments)

    plain = torch.relu
    monkeypatch.setattr(torch, "relu", slow)
    digests.add(train(change(base, ["name=slow"]), quiet=True).digest)
    assert len(digests) == 1


def test_nothing_is_timed_unless_asked_for(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr("distmeta.program.program.choose_by_time", refuse)
    train(base, quiet=True)
    with pytest.raises(Exception, match="timed"):
        train(change(base, ["name=measured", "engine.strategy=measured"]), quiet=True)
