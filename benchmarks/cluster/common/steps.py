"""Outer steps of a run and nothing else: the code path of training without evaluation, records and checkpoints."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch

from distmeta.config import RunConfig, RuntimeConfig
from distmeta.config.load import change
from distmeta.core.types import Params, Work
from distmeta.program.program import UPDATE, MetaProgram, MetaRecipe
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor
from distmeta.runtime.memory import keep_freed_memory
from distmeta.runtime.ray.cluster import connect
from distmeta.training.steps import Step, build_procedure

CPUS_PER_WORKER = 0.25
FIXED = (
    f"runtime.cpus_per_worker={CPUS_PER_WORKER}",  # workers may outnumber the cores
    "runtime.tolerance.heartbeat_timeout_s=600",  # those that are throttled or wait for a turn are slow
    "train.steps=1000000",  # the benchmark ends the run
)
"""Changes of the job's configuration."""
_GRACE_S = 30.0


@contextmanager
def session(config: RuntimeConfig, object_store_bytes: int | None = None) -> Iterator[ExitStack]:
    """A Ray cluster for several executors, one after the other or together; the driver has the settings of training."""
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(config.threads_per_worker)
        keep_freed_memory()
        stack.callback(connect(config, object_store_bytes).disconnect)
        yield stack


def start_executor(config: RunConfig, stack: ExitStack) -> Executor:
    """Start the executor of a run and wait for its workers; `stack` closes it."""
    executor = build_executor(config.runtime, MetaRecipe.of(config), config.outer.compression)
    stack.callback(executor.close)
    executor.ready()
    return executor


class OuterSteps:
    """Makes the outer steps of a run, from the first one on; `stack` ends its threads.

    Several may take turns on one executor, also with other engines than its recipe's: those are sent with the shards.
    """

    def __init__(self, config: RunConfig, executor: Executor, stack: ExitStack) -> None:
        program = MetaProgram(config)
        stack.callback(program.close)
        params = program.algorithm.learner.init(config.seed)
        self._procedure = build_procedure(config, params, program.source, executor)
        self._work = Work(UPDATE, config.engine)

    @property
    def version(self) -> int:
        return self._procedure.server.version

    def step(self) -> Step:
        return self._procedure.step(self._work)

    def params(self) -> Params:
        """A copy of the meta-parameters as they are evaluated."""
        return {name: tensor.clone() for name, tensor in self._procedure.server.averaged().items()}


class IndependentProcesses:
    """Processes that each make the steps of a run alone and meet at a barrier after every step.

    The upper bound for any executor: cores share memory, caches and heat, so two of them are less than twice one. Each
    process computes its share of a step's tasks, as one shard.
    """

    def __init__(self, config: RunConfig, processes: int = 2) -> None:
        share = config.train.tasks_per_step // processes
        changes = ["runtime.executor=local", f"runtime.shard_size={share}", f"train.tasks_per_step={share}"]
        config_json = change(config, changes).model_dump_json()
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve_steps, args=(config_json, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def step(self) -> None:
        """Make one step in each process. Raises EOFError where a process has failed."""
        for pipe in self._pipes:
            pipe.send_bytes(b"step")
        for pipe in self._pipes:
            pipe.recv_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_GRACE_S)
            process.kill()


def _serve_steps(config_json: str, pipe: Connection) -> None:
    """Make a step for every message, until the pipe is closed."""
    with ExitStack() as stack:
        config = RunConfig.model_validate_json(config_json)
        steps = OuterSteps(config, start_executor(config, stack), stack)
        while True:
            try:
                pipe.recv_bytes()
            except EOFError:
                return
            steps.step()
            pipe.send_bytes(b"done")
