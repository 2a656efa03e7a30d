"""Parts of a server in Ray actors, each with some of the parameters (`distmeta.server.sharded`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from distmeta.config.outer import OuterConfig
from distmeta.core.errors import WorkerError
from distmeta.core.types import Params, Report, Snapshot, Update
from distmeta.runtime.memory import keep_freed_memory
from distmeta.runtime.ray.errors import final
from distmeta.runtime.wire import ParamsWire, ReportWire, decode_params, decode_value, encode_params, encode_value
from distmeta.server import ParameterServer, StepRecord, Verdict
from distmeta.server.outer import State
from distmeta.server.synchronous import Reduced

StateWire = tuple[ParamsWire, dict[str, Any]]
"""A state: its tensors, and its scalars."""


class PartActor:
    """The Ray actor: a `ParameterServer` behind calls that take and give what travels."""

    def __init__(self, params: ParamsWire, config: OuterConfig, total_steps: int) -> None:
        keep_freed_memory()
        self._server = ParameterServer(decode_params(params), config, total_steps)

    def push(self, report: ReportWire) -> Verdict:
        """See `ParameterServer.push` and `push_sum`."""
        decoded: Report = decode_value(report)
        if decoded.count == 1:
            return self._server.push(decoded)
        return self._server.push_sum(
            decoded.version, decoded.shard, decoded.count, decoded.update, finite=decoded.finite
        )

    def drop(self, shard: int) -> None:
        """See `ParameterServer.drop`."""
        self._server.drop(shard)

    def reduce(self, num_shards: int) -> Reduced:
        """See `ParameterServer.reduce`."""
        return self._server.reduce(num_shards)

    def apply(self, norm: float) -> StepRecord:
        """See `ParameterServer.apply`."""
        return self._server.apply(norm)

    def pull(self) -> tuple[int, ParamsWire]:
        """See `ParameterServer.pull`."""
        snapshot = self._server.pull()
        return snapshot.version, encode_params(snapshot.params)

    def averaged(self) -> ParamsWire:
        """See `ParameterServer.averaged`."""
        return encode_params(self._server.averaged())

    def state_dict(self) -> StateWire:
        """See `ParameterServer.state_dict`."""
        return _split(self._server.state_dict())

    def load_state_dict(self, state: StateWire) -> None:
        """See `ParameterServer.load_state_dict`."""
        tensors, scalars = state
        self._server.load_state_dict({**scalars, **decode_params(tensors)})


class RayPart:
    """A part of a `ShardedServer` in a process of its own, somewhere on the cluster. Calls wait for their answer.

    A part that dies ends the run, which goes on from its last checkpoint when it is resumed.

    Args:
        params: The part's parameters.
        config: The outer section.
        total_steps: Steps of the whole run.

    Raises:
        WorkerError: In any call: the actor is gone.
    """

    def __init__(self, params: Params, config: OuterConfig, total_steps: int) -> None:
        remote: Any = ray.remote(PartActor)
        # It has no work while workers have: it needs memory, not a core of its own.
        self._actor = remote.options(num_cpus=0, scheduling_strategy="SPREAD").remote(
            encode_params(params), config, total_steps
        )

    def push(self, report: Report) -> Verdict:
        """See `Part.push`."""
        verdict: Verdict = self._call("push", encode_value(report))
        return verdict

    def push_sum(self, version: int, first: int, count: int, update: Update, *, finite: bool | None = None) -> Verdict:
        """See `Part.push_sum`."""
        return self.push(Report(version, first, update, finite, count))

    def drop(self, shard: int) -> None:
        """See `Part.drop`."""
        self._call("drop", shard)

    def reduce(self, num_shards: int) -> Reduced:
        """See `Part.reduce`."""
        reduced: Reduced = self._call("reduce", num_shards)
        return reduced

    def apply(self, norm: float) -> StepRecord:
        """See `Part.apply`."""
        record: StepRecord = self._call("apply", norm)
        return record

    def pull(self) -> Snapshot:
        """See `Part.pull`."""
        version, wire = self._call("pull")
        return Snapshot(version, decode_params(wire))

    def averaged(self) -> Params:
        """See `Part.averaged`."""
        return decode_params(self._call("averaged"))

    def state_dict(self) -> State:
        """See `Part.state_dict`."""
        tensors, scalars = self._call("state_dict")
        return {**scalars, **decode_params(tensors)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See `Part.load_state_dict`."""
        self._call("load_state_dict", _split(state))

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayTaskError as error:
            raise final(str(error), error, "a part of the server") from error
        except RayError as error:
            raise WorkerError(f"a part of the server is gone ({type(error).__name__})") from error


def _split(state: Mapping[str, object]) -> StateWire:
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return encode_params(tensors), {name: value for name, value in state.items() if name not in tensors}
