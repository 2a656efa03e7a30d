"""What a checkpoint holds, in memory and in its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from distmeta.config.run import RunConfig
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, PARAMS, State
from distmeta.tasks.base import TaskSignature

FORMAT = 1
"""Version of the layout; raised whenever an older reader could misread a checkpoint."""

META, AVERAGED, SERVER = "meta.safetensors", "averaged.safetensors", "server.safetensors"
PENDING = "pending.jsonl"
FILES = (META, AVERAGED, SERVER, PENDING)


class StateFile(BaseModel):
    """The content of `state.json`.

    Attributes:
        format: Version of the layout.
        step: Outer steps made.
        name: The run's name.
        run_id: The tracker's id of the run.
        score: Value by which the best checkpoint is chosen, higher is better.
        metrics: Values to show.
        progress: What the training loop needs to go on, e.g. its elapsed seconds.
        digest: sha256 of the meta-parameters (`distmeta.core.tensors.digest`).
        sha256: sha256 of each other file.
        server: The server state's scalars.
        signature: What the network fits.
        config: The resolved configuration.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    format: int
    step: int
    name: str
    run_id: str | None
    score: float | None
    metrics: dict[str, float]
    progress: dict[str, float]
    digest: str
    sha256: dict[str, str]
    server: dict[str, bool | int | float | str | None]
    signature: TaskSignature
    config: dict[str, object]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified.

    Attributes:
        path: Where it lies: a local path or a URL.
        step: Outer steps made.
        config: The run's configuration.
        signature: What the network fits, so that a learner can be built where the data is not.
        state: What `ParameterServer.load_state_dict` takes.
        run_id: The tracker's id of the run.
        score: Value by which the best checkpoint is chosen.
        metrics: Values to show.
        progress: What the training loop needs to go on.
        digest: sha256 of the meta-parameters.
    """

    path: str
    step: int
    config: RunConfig
    signature: TaskSignature
    state: State
    run_id: str | None
    score: float | None
    metrics: Mapping[str, float]
    progress: Mapping[str, float]
    digest: str

    @property
    def params(self) -> Params:
        """The meta-parameters."""
        return tensors_under(self.state, PARAMS)

    @property
    def averaged(self) -> Params:
        """The meta-parameters to evaluate and use: the averaged ones, or the plain ones where averaging is off."""
        return tensors_under(self.state, AVERAGE) or self.params


@dataclass(frozen=True)
class Summary:
    """A checkpoint's `state.json` in short.

    Attributes:
        path: Where it lies.
        name: The run's name.
        step: Outer steps made.
        score: Value by which the best one is chosen.
        digest: sha256 of the meta-parameters.
        best: True for the best checkpoint of its run.
    """

    path: str
    name: str
    step: int
    score: float | None
    digest: str
    best: bool


def tensors_under(state: Mapping[str, object], prefix: str) -> Params:
    """The state's tensors whose name starts with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }
