"""Outer steps of a run and nothing else: the code path of training without evaluation, records and checkpoints."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError

import torch

from distmeta.config import RunConfig, RuntimeConfig
from distmeta.config.load import change
from distmeta.core.types import Params, Work
from distmeta.program.program import UPDATE, MetaProgram, MetaRecipe
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor
from distmeta.runtime.memory import keep_freed_memory
from distmeta.runtime.ray.cluster import connect
from distmeta.training.procedure import Step
from distmeta.training.steps import build_procedure

CPUS_PER_WORKER = 0.25
FIXED = (
    f"runtime.cpus_per_worker={CPUS_PER_WORKER}",  # workers may outnumber the cores
    "runtime.tolerance.heartbeat_timeout_s=600",  # those that are throttled or wait for a turn are slow
    "train.steps=1000000",  # the benchmark ends the run
)
"""Changes of the job's configuration."""
_TIMEOUT_S = 600.0


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
        self._barrier = context.Barrier(processes + 1, timeout=_TIMEOUT_S)
        self._processes = [
            context.Process(target=_make_steps, args=(config_json, self._barrier), daemon=True)
            for _ in range(processes)
        ]
        for process in self._processes:
            process.start()

    def step(self) -> None:
        """Make one step in each process. Raises BrokenBarrierError where one has failed."""
        self._barrier.wait()
        self._barrier.wait()

    def close(self) -> None:
        """End the processes."""
        self._barrier.abort()
        for process in self._processes:
            process.join()


def _make_steps(config_json: str, barrier: Barrier) -> None:
    """Make a step at every other wait, until the barrier is aborted."""
    with ExitStack() as stack:
        stack.callback(barrier.abort)
        stack.enter_context(suppress(BrokenBarrierError))
        config = RunConfig.model_validate_json(config_json)
        steps = OuterSteps(config, start_executor(config, stack), stack)
        while True:
            barrier.wait()
            steps.step()
            barrier.wait()
