"""Messages between the driver and the actors: plain data and arrays of bytes. Encoding is in `distmeta.runtime.wire`.

Loads no torch, so that an actor that computes nothing can do without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distmeta.core.work import Shard, Work

if TYPE_CHECKING:
    from distmeta.runtime.compression import Kind

TensorHeader = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of one tensor."""
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ParamsWire:
    """Flat parameters.

    Attributes:
        header: The tensors in their order; plain data that JSON can hold.
        small: The bytes of all tensors below `LARGE_TENSOR_BYTES`, in their order, each aligned to `ALIGNMENT_BYTES`.
        large: The bytes of each of the others, in their order.
    """

    header: tuple[TensorHeader, ...]
    small: Bytes
    large: tuple[Bytes, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return self.small.nbytes + sum(array.nbytes for array in self.large)


@dataclass(frozen=True)
class SnapshotWire:
    """A snapshot. `serial` numbers the snapshots that an executor sends; several may have the same version."""

    serial: int
    version: int
    params: ParamsWire
    buffers: ParamsWire | None = None
    extra: ParamsWire | None = None


@dataclass(frozen=True)
class ShardRequest:
    """A request to compute a shard. One object, since Ray serializes each argument of a call by itself.

    Attributes:
        key: Number of the executor's call, and index of the shard.
        work: What to compute.
        shard: The shard, without its carry.
        upcoming: The shard to prepare meanwhile.
        carry: The shard's carry; None if it is empty.
    """

    key: tuple[int, int]
    work: Work
    shard: Shard
    upcoming: Shard | None
    carry: ParamsWire | None = None


@dataclass(frozen=True)
class ReportWire:
    """A report of an update, with the fields of `Report` and `Update`.

    Attributes:
        grad: The gradient; None if it is an object of its own in the object store (`split_grad`).
        compression: Kind and original types of a compressed gradient (see `Compressed`); None if it is not compressed.
        buffers: Running statistics; None if there are none.
        carries: State of the estimator, by index of the shard.
    """

    version: int
    shard: int
    grad: ParamsWire | None
    weight: float
    metrics: dict[str, float]
    finite: bool
    compression: tuple[Kind, dict[str, str]] | None = None
    count: int = 1
    buffers: ParamsWire | None = None
    carries: dict[int, ParamsWire] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultWire:
    """A `Result` with its value encoded."""

    shard: int
    value: Any
    worker: int
    data_wait_s: float
    compute_s: float


@dataclass(frozen=True)
class Location:
    """Where an actor runs.

    Attributes:
        node_id: Ray's id of the node.
        host: Address of the node.
        pid: Id of the process.
        gpus: Ids of its GPUs.
    """

    node_id: str
    host: str
    pid: int
    gpus: str = ""
