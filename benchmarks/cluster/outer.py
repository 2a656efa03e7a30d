"""A run's outer steps and nothing else: the code path of training without evaluation, records and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from distmeta.config import RunConfig, RuntimeConfig
from distmeta.core.types import Params
from distmeta.program.program import UPDATE, MetaProgram, MetaRecipe, kind_of
from distmeta.runtime import build_executor
from distmeta.runtime.executor import Executor
from distmeta.runtime.memory import keep_freed_memory
from distmeta.runtime.ray.cluster import connect
from distmeta.training.steps import Step, build_server, build_steps

CPUS = 0.25
"""What Ray reserves for a worker of a session (`runtime.cpus_per_worker`): they may outnumber the cores."""


@contextmanager
def session(workers: int, threads: int = 1) -> Iterator[ExitStack]:
    """A Ray cluster for executors that come one after the other, or together; in the driver, the settings of training.

    Args:
        workers: For how many at a time there is room.
        threads: Of tensor operations in this process.

    Raises:
        UserError: The cluster that RAY_ADDRESS names cannot be used.
    """
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads)
        keep_freed_memory()
        stack.callback(
            connect(RuntimeConfig(workers=workers, cpus_per_worker=CPUS, threads_per_worker=threads)).disconnect
        )
        yield stack


def executor_of(config: RunConfig, stack: ExitStack) -> Executor:
    """Start the executor of a run; `stack` ends it."""
    executor = build_executor(config.runtime, MetaRecipe.of(config), config.outer.compression)
    stack.callback(executor.close)
    return executor


class OuterSteps:
    """Makes outer steps, from the first one on.

    Args:
        config: The run. Its engine need not be that of the executor's recipe: it travels with the shards.
        executor: Where shards are computed; several of these may use one, in turn.
        stack: Ends the server.
    """

    def __init__(self, config: RunConfig, executor: Executor, stack: ExitStack) -> None:
        program = MetaProgram(config)
        self._server = build_server(config, program.algorithm.learner.init(config.seed), stack)
        self._steps = build_steps(config, program.source, self._server, executor)
        self._kind = kind_of(UPDATE, config.engine)

    @property
    def version(self) -> int:
        """Steps made."""
        return self._server.version

    def step(self) -> Step:
        """Make one step."""
        return self._steps.step(self._kind)

    def params(self) -> Params:
        """A copy of the meta-parameters as they are evaluated."""
        return {name: tensor.clone() for name, tensor in self._server.averaged().items()}
