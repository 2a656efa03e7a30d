"""Contents of a checkpoint: its files, and its representation in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt
from torch import Tensor

from distmeta.config.base import shortened
from distmeta.config.run import RunConfig
from distmeta.core.types import Params
from distmeta.server.outer import AVERAGE, BUFFERS, PARAMS, State
from distmeta.tasks.base import TaskSignature

FORMAT = 1
"""Version of the format; increased whenever an older reader could misread a checkpoint."""

META, AVERAGED, SERVER = "meta.safetensors", "averaged.safetensors", "server.safetensors"
PENDING, WORDS = "pending.jsonl", "words.json"
FILES = (META, AVERAGED, SERVER, PENDING, WORDS)


_MAX_SIZE = 2**31
"""Numbers of one example, and outputs, of the largest tasks."""


def _is_possible(signature: TaskSignature) -> TaskSignature:
    """Check sizes that a network is built for."""
    shape, outputs = signature.input_shape, (signature.num_outputs, *signature.train_outputs.values())
    if not shape or min(shape) < 1 or math.prod(shape) >= _MAX_SIZE:
        raise ValueError(f"the input shape {shortened(shape)} is not possible; allowed: one or more positive sizes")
    if not all(0 < number < _MAX_SIZE for number in outputs):
        raise ValueError(f"{shortened(outputs)} are not numbers of outputs; allowed: 1 to {_MAX_SIZE - 1}")
    if signature.classes is not None and len(signature.classes) != signature.num_outputs:
        raise ValueError(f"{len(signature.classes)} names of classes; allowed: {signature.num_outputs}, or none")
    return signature


class StateFile(BaseModel):
    """Content of `state.json`. Unknown fields are ignored as long as `format` matches.

    Attributes:
        format: Version of the format.
        step: Number of outer steps.
        name: Name of the run.
        run_id: Id of the run in the tracker.
        score: Score by which the best checkpoint is chosen; higher is better.
        progress: State of the training loop, e.g. its elapsed seconds.
        digest: sha256 of the meta-parameters (`distmeta.core.tensors.digest`).
        sha256: sha256 of each other file.
        server: Scalars of the server state.
        signature: Input and output sizes of the tasks.
        config: The resolved configuration, its secrets masked.
        order: Names of the tensors in the order of the server state, which safetensors files do not keep: a graph that
            was compiled for another order would be compiled again.
    """

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings")

    format: int
    step: NonNegativeInt
    name: str
    run_id: str | None
    score: float | None
    progress: dict[str, Annotated[FiniteFloat, Field(ge=0.0)]]
    digest: str
    sha256: dict[str, str]
    server: dict[str, bool | int | float | str | None]
    signature: Annotated[TaskSignature, AfterValidator(_is_possible)]
    config: dict[str, object]
    order: list[str] = []


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been loaded and verified.

    Attributes:
        path: Local path or URL of its folder.
        step: Number of outer steps.
        config: Configuration of the run, with sections `runtime`, `tracking` and `checkpoint` of this process: nothing
            in a checkpoint decides where to connect or where to write. Of `runtime`, what rounding depends on is kept.
        recorded: The configuration as the run recorded it, for people to read.
        signature: Input and output sizes of the tasks, so that a learner can be built without the data.
        state: State dict of the server.
        run_id: Id of the run in the tracker.
        score: Score by which the best checkpoint is chosen.
        progress: State of the training loop.
        digest: sha256 of the meta-parameters.
        words: Vocabulary of the tokenizer `words`, in the order of its ids; None for other tasks and tokenizers.
    """

    path: str
    step: int
    config: RunConfig
    recorded: Mapping[str, Any]
    signature: TaskSignature
    state: State
    run_id: str | None
    score: float | None
    progress: Mapping[str, float]
    digest: str
    words: tuple[str, ...] | None = None

    @property
    def params(self) -> Params:
        """The meta-parameters."""
        return tensors_with_prefix(self.state, PARAMS)

    @property
    def averaged(self) -> Params:
        """The meta-parameters to evaluate and use: the averaged ones if averaging is on, otherwise `params`."""
        return tensors_with_prefix(self.state, AVERAGE) or self.params

    @property
    def buffers(self) -> Params:
        """Running statistics of the network."""
        return tensors_with_prefix(self.state, BUFFERS)


@dataclass(frozen=True)
class Summary:
    """Summary of a checkpoint, from its `state.json`.

    Attributes:
        path: Local path or URL of its folder.
        name: Name of the run.
        step: Number of outer steps.
        score: Score by which the best checkpoint is chosen.
        digest: sha256 of the meta-parameters.
        best: Whether it is the best checkpoint of its run.
    """

    path: str
    name: str
    step: int
    score: float | None
    digest: str
    best: bool


def tensors_with_prefix(state: Mapping[str, object], prefix: str) -> Params:
    """Tensors of the state whose name starts with `prefix`, which is removed."""
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }
