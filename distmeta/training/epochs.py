"""Several steps on the same trajectories: the outer loop of PPO (Schulman et al. 2017, arXiv 1707.06347, algorithm 1).

    step 0, E, 2E, ...   trajectories are collected with the present meta-parameters; their gradient   `record`
    the E - 1 between    gradient of the present meta-parameters on those trajectories                 `again`

Each is a step of the outer optimizer. Adaptation is part of what is computed again: inner steps weigh the kept support
trajectories by how likely the present policy makes them. The outer loss is PPO's where its objective has a `clip`. With
the low-variance curvature this is ProMP (Rothfuss et al. 2019, arXiv 1810.06784) without its penalty.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.types import Params, Report, Snapshot, Work
from distmeta.program.recorded import AGAIN, AT, RECORD
from distmeta.runtime.executor import Executor
from distmeta.server import ParameterServer, Verdict
from distmeta.server.outer import State
from distmeta.tasks.base import TaskSource
from distmeta.training.procedure import Procedure, Step
from distmeta.training.rounds import Rounds

_COLLECTED = "collected/"
"""Prefix in a state of the meta-parameters that collected the trajectories."""


class Epochs(Procedure):
    """Every step waits for all shards: the result depends neither on who computes what, nor on when.

    Args:
        config: The run.
        source: Where the tasks come from.
        server: Holds the meta-parameters.
        executor: Who computes.
    """

    def __init__(self, config: RunConfig, source: TaskSource, server: ParameterServer, executor: Executor) -> None:
        self.server: ParameterServer = server
        self._config, self._source, self._executor = config, source, executor
        self._collected: Params = {}

    @override
    def step(self, work: Work) -> Step:
        config, present = self._config, self.server.pull()
        drawn, epoch = divmod(present.version, config.outer.epochs)
        if epoch == 0:
            self._collected = present.params
        shards = self._source.shards("train", drawn, config.train.tasks_per_step, config.runtime.shard_size)
        rounds = Rounds(self._executor, Snapshot(present.version - epoch, self._collected), shards, work.engine)
        at = {AT + name: tensor for name, tensor in present.params.items()}
        total = rounds.ask(AGAIN, at) if epoch else rounds.ask(RECORD)
        verdict = self.server.push(Report(present.version, 0, total))
        if verdict is not Verdict.ACCEPTED:
            raise DistmetaError(f"step {present.version}: the sum of the updates is {verdict.value}")
        return Step(self.server.step(1), rounds.results, config.train.tasks_per_step)

    @override
    def pause(self) -> None:
        pass  # between two steps no worker computes

    @override
    def state_dict(self) -> State:
        """The server's state and, between two collections, the meta-parameters of the last: `collected/<name>`."""
        state = self.server.state_dict()
        if self.server.version % self._config.outer.epochs:
            state |= {_COLLECTED + name: tensor.clone() for name, tensor in self._collected.items()}
        return state

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.server.load_state_dict({name: value for name, value in state.items() if not name.startswith(_COLLECTED)})
        present = self.server.pull()
        kept = {name.removeprefix(_COLLECTED): value for name, value in state.items() if name.startswith(_COLLECTED)}
        if not present.version % self._config.outer.epochs:
            kept = {}  # another number of epochs: the next step collects
        elif {name: _shape(value) for name, value in kept.items()} != {k: _shape(v) for k, v in present.params.items()}:
            what = f"step {present.version} is between two collections, but the state lacks what collected"
            raise UserError(what, where="outer.epochs", allowed="the number that the run was started with")
        self._collected = {
            name: value.detach().cpu().clone() for name, value in kept.items() if isinstance(value, Tensor)
        }


def _shape(value: object) -> object:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
