"""What several processes that share nothing but a barrier after every step reach: no executor can do better.

Cores share memory, caches and heat, so two of them are less than twice one; that is not the executor's fault.
"""

from __future__ import annotations

import multiprocessing
from contextlib import ExitStack
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from benchmarks.cluster.outer import OuterSteps, executor_of
from distmeta.config import RunConfig
from distmeta.config.load import change

_GRACE_S = 30.0


class Barrier:
    """Processes that each make the steps of a run by themselves, all at the same time.

    Args:
        config: The run; each process computes its share of the tasks of a step, as one shard.
        processes: How many.
    """

    def __init__(self, config: RunConfig, processes: int = 2) -> None:
        share = config.train.tasks_per_step // processes
        changes = ["runtime.executor=local", f"runtime.shard_size={share}", f"train.tasks_per_step={share}"]
        text = change(config, changes).model_dump_json()
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(text, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def step(self) -> None:
        """Have each make one step.

        Raises:
            EOFError: One of them has failed.
        """
        for pipe in self._pipes:
            pipe.send_bytes(b"step")
        for pipe in self._pipes:
            pipe.recv_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_GRACE_S)
            process.kill()


def _work(text: str, pipe: Connection) -> None:
    with ExitStack() as stack:
        config = RunConfig.model_validate_json(text)
        steps = OuterSteps(config, executor_of(config, stack), stack)
        while True:
            try:
                pipe.recv_bytes()
            except EOFError:
                return
            steps.step()
            pipe.send_bytes(b"done")
