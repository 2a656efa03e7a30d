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
from distmeta.core.errors import UserError
from distmeta.core.tensors import below
from distmeta.core.types import Params, Snapshot, Work
from distmeta.program.recorded import AGAIN, AT, RECORD
from distmeta.runtime.executor import Executor
from distmeta.server import ParameterServer
from distmeta.server.outer import State
from distmeta.tasks.base import TaskSource
from distmeta.training.procedure import Step
from distmeta.training.rounds import InRounds

_COLLECTED = "collected/"
"""Prefix in a state of the meta-parameters that collected the trajectories."""


class Epochs(InRounds):
    """Each step is one round."""

    def __init__(self, config: RunConfig, source: TaskSource, server: ParameterServer, executor: Executor) -> None:
        super().__init__(config, source, server, executor)
        self._collected: Params = {}

    @override
    def step(self, work: Work) -> Step:
        config, present = self._config, self.server.pull()
        drawn, epoch = divmod(present.version, config.outer.epochs)
        if epoch == 0:
            self._collected = present.params
        rounds = self._rounds(Snapshot(present.version - epoch, self._collected), drawn, work)
        at = {AT + name: tensor for name, tensor in present.params.items()}
        total = rounds.ask(AGAIN, at) if epoch else rounds.ask(RECORD)
        return Step(self._make_step(total), rounds.results, config.train.tasks_per_step)

    @override
    def state_dict(self) -> State:
        """The server's state and, between two collections, the meta-parameters of the last: `collected/<name>`."""
        state = super().state_dict()
        if self.server.version % self._config.outer.epochs:
            state |= {_COLLECTED + name: tensor.clone() for name, tensor in self._collected.items()}
        return state

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict({name: value for name, value in state.items() if not name.startswith(_COLLECTED)})
        present = self.server.pull()
        kept = below(state, _COLLECTED)
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
