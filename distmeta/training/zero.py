"""Outer steps made by the ranks of one worker, which hold the meta-parameters (`distmeta.program.zero`).

    driver: version t  ->  worker: advance(t)  ->  driver: record, version t + 1

Meta-parameters travel when they are loaded, saved, evaluated or hashed. What was collected last is kept: a worker that
has been started anew gets it, and makes the steps since once more, with the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError, UserError, WorkerError
from distmeta.core.types import Params, Shard, Snapshot, Work
from distmeta.program.zero import ADVANCE, COLLECT, LOAD, Behind, Nonfinite
from distmeta.runtime.executor import Executor, Result
from distmeta.server import StepRecord, Weights
from distmeta.server.outer import OPTIMIZER, PARAMS, State, check_state
from distmeta.training.procedure import Procedure, Step


class GroupWeights(Weights):
    """The meta-parameters in a worker, as the driver sees them.

    Args:
        config: The run.
        params: The first meta-parameters.
        executor: Has the worker.
    """

    def __init__(self, config: RunConfig, params: Params, executor: Executor) -> None:
        self._config, self._executor = config, executor
        self._version = 0
        self._known = Snapshot(0, params)  # the version that was collected last, `extra` of the optimizer
        self._is_loaded = False
        self._advance_work = Work(ADVANCE)

    @property
    @override
    def version(self) -> int:
        return self._version

    @override
    def pull(self) -> Snapshot:
        known = self._collected()
        return Snapshot(known.version, known.params)

    @override
    def averaged(self) -> Params:
        return self._collected().params

    @override
    def buffers(self) -> Params:
        return {}

    def advance(self, work: Work) -> tuple[StepRecord, Result]:
        """Make the next version; the result is that of the worker, without its value.

        Raises:
            DistmetaError: The gradient is not finite, or the worker is lost too often.
        """
        self._advance_work = Work(ADVANCE, work.engine)
        result = self._ask(self._advance_work, self._version)
        if isinstance(result.value, Nonfinite):
            raise DistmetaError(f"step {self._version}: an entry of the gradient is infinite or not a number")
        self._version += 1
        return result.value, replace(result, value=None)

    @override
    def state_dict(self) -> State:
        """Everything that the following versions depend on, by the names of `distmeta.server.outer.OuterOptimizer`."""
        known = self._collected()
        state: State = {"optimizer": self._config.outer.optimizer, "num_steps": known.version}
        state |= {PARAMS + name: tensor for name, tensor in known.params.items()}
        return state | {OPTIMIZER + name: tensor for name, tensor in known.extra.items()}

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        params, outer = self._known.params, self._config.outer
        check_state(state, outer, params)
        version = cast(int, state["num_steps"])
        parts: Params = {
            name.removeprefix(OPTIMIZER): value
            for name, value in state.items()
            if name.startswith(OPTIMIZER) and isinstance(value, Tensor)
        }
        _check_steps(parts, params, version)
        self._known = Snapshot(version, {name: cast(Tensor, state[PARAMS + name]) for name in params}, extra=parts)
        self._version, self._is_loaded = version, False

    def _collected(self) -> Snapshot:
        """The present version. Its tensors are not changed by anyone."""
        if self._known.version != self._version:
            self._known = self._ask(Work(COLLECT), self._version).value
        return self._known

    def _ask(self, work: Work, version: int) -> Result:
        """The worker's answer; one that has been started anew is brought to `version` first.

        Raises:
            WorkerError: The worker is lost too often.
        """
        if not self._is_loaded:
            self._restore(version)
        for _ in range(1 + self._config.runtime.tolerance.max_shard_retries):
            result = self._request(work, Snapshot(version, {}))
            if not isinstance(result.value, Behind):
                return result
            self._restore(version)
        raise WorkerError(f"step {version}: the worker of outer.zero has been lost again and again at this step")

    def _restore(self, version: int) -> None:
        """Load what is known, and make the steps since."""
        self._request(Work(LOAD), self._known)
        self._is_loaded = True
        for step in range(self._known.version, version):
            if isinstance(self._request(self._advance_work, Snapshot(step, {})).value, Behind):
                return  # lost once more: the caller counts

    def _request(self, work: Work, snapshot: Snapshot) -> Result:
        [result] = self._executor.map(work, snapshot, [Shard(snapshot.version, ())])
        return result


def _check_steps(state: Params, params: Params, version: int) -> None:
    """Check that the optimizer has made every step with every meta-parameter.

    Raises:
        UserError: It has not: the state is of a run whose updates left some of them out.
    """
    counts = {float(tensor) for name, tensor in state.items() if name.endswith("/step")}
    names = {name.rpartition("/")[0] for name in state}
    if len(counts) > 1 or (names and names != params.keys()) or (counts and counts != {float(version)}):
        what = "the optimizer has not made every step with every meta-parameter"
        raise UserError(what, where="server state", allowed="a checkpoint of a run with outer.zero")


def check_zero(params: Params, buffers: Params) -> None:
    """Check that ranks can hold these meta-parameters.

    Raises:
        UserError: They cannot.
    """
    if buffers:
        what = f"the network keeps running statistics ('{next(iter(buffers))}'), which ranks do not"
        raise UserError(what, where="outer.zero", allowed="null, or a network without them")
    for name, tensor in params.items():
        if tensor.dtype != torch.float32:
            raise UserError(f"'{name}' is {tensor.dtype}", where="outer.zero", allowed="null, or float32 throughout")


class Zero(Procedure):
    """Every step is made by the worker that holds the meta-parameters; the driver has its record."""

    def __init__(self, config: RunConfig, server: GroupWeights) -> None:
        self.server: GroupWeights = server
        self._tasks = config.train.tasks_per_step

    @override
    def step(self, work: Work) -> Step:
        record, result = self.server.advance(work)
        return Step(record, [result], self._tasks)

    @override
    def state_dict(self) -> State:
        return self.server.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.server.load_state_dict(state)
