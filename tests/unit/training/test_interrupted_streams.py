"""Asynchronous steps whose stream is left again and again, to evaluate, while slow workers hold many shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from typing_extensions import override

from distmeta.config import OuterConfig, RunConfig, RuntimeConfig, SinusoidTasks, TrainConfig
from distmeta.config.models import MlpConfig
from distmeta.core.types import Report, Shard, Snapshot, Update, Work
from distmeta.methods import fomaml
from distmeta.runtime.executor import Executor, Feed, Result
from distmeta.tasks import build_source
from distmeta.training.steps import build_procedure


class SlowExecutor(Executor):
    """Holds many shards in its first stream and few in later ones; answers the newest, and loses what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self._held = iter((6, *[2] * 100))

    @property
    @override
    def num_workers(self) -> int:
        return 6

    @override
    def ready(self) -> None:
        pass

    @override
    def map(
        self, work: Work, snapshot: Snapshot, shards: Sequence[Shard], upcoming: Sequence[Shard] = ()
    ) -> Iterator[Result]:
        raise AssertionError("not used")

    @override
    def stream(self, work: Work, feed: Feed) -> Iterator[Result]:
        running: list[tuple[Snapshot, Shard]] = []
        held = next(self._held)
        while True:
            while len(running) < held:
                fed = feed()
                assert fed is not None
                running.append(fed)
            snapshot, shard = running.pop()
            update = Update({"w": torch.ones(2)}, 1.0)
            yield Result(shard.index, Report(snapshot.version, shard.index, update), 0, 0.0, 0.0)

    @override
    def recompute(self, result: Result) -> None:
        raise AssertionError("not used")

    @override
    def close(self) -> None:
        pass


def test_no_shard_is_computed_twice_however_often_the_stream_is_left(tmp_path: Path) -> None:
    config = RunConfig(
        name="interrupted",
        tasks=SinusoidTasks(),
        model=MlpConfig(hidden=(4,)),
        algorithm=fomaml(),
        outer=OuterConfig(staleness=100),
        runtime=RuntimeConfig(executor="local", shard_size=1),
        train=TrainConfig(steps=20, tasks_per_step=2),
    )
    source = build_source(config.tasks, 0, torch.float32)
    procedure = build_procedure(config, {"w": torch.zeros(2)}, source, SlowExecutor())
    for step in range(20):
        assert procedure.step(Work("update")).record.version == step + 1
        procedure.pause()
