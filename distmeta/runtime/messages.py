"""Messages between the driver and the actors: plain data and arrays of bytes. Encoding is in `distmeta.runtime.wire`.

Loads no torch, so that an actor that computes nothing can do without.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distmeta.core.work import Shard, TaskSpec, Work

if TYPE_CHECKING:
    from distmeta.runtime.compression import Kind
    from distmeta.runtime.policy.decisions import Failure

TensorHeader = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of one tensor."""
Bytes = npt.NDArray[np.uint8]
ALIGNMENT_BYTES = 64
"""Alignment of a tensor's memory by torch on the CPU."""


def padded(size: int) -> int:
    """Bytes up to where the next tensor may begin."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


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
class SharedParams:
    """Flat parameters that are in memory which their sender shares (`distmeta.runtime.shared`).

    Attributes:
        header: As of `ParamsWire`.
        sizes: Bytes of each of its arrays: first the small tensors', then each large one's.
        slot: Number of the slot.
        offset: Where the slot begins in the sender's memory.
        capacity: Bytes of the slot.
    """

    header: tuple[TensorHeader, ...]
    sizes: tuple[int, ...]
    slot: int
    offset: int
    capacity: int


@dataclass(frozen=True)
class MemoryPlace:
    """Where a process has memory that others of its host may open.

    Attributes:
        process: Its id.
        file: Its descriptor of the memory.
        token: What the memory begins with: another process may have the same id in another container.
    """

    process: int
    file: int
    token: bytes


@dataclass(frozen=True)
class SnapshotWire:
    """A snapshot, and what to compute from it.

    Attributes:
        serial: Number of the snapshot among those that an executor sends; several may have the same version.
        work: What to compute; here, since it is the same for all shards of a call.
    """

    serial: int
    version: int
    params: ParamsWire
    buffers: ParamsWire | None = None
    extra: ParamsWire | None = None
    work: Work | None = None


@dataclass(frozen=True)
class ShardRequest:
    """A request to compute a shard, as an actor reads it. It travels as bytes (`Requests`).

    Attributes:
        key: Number of the executor's call, and index of the shard.
        shard: The shard, without its carry.
        upcoming: The shard to prepare meanwhile.
        reader: Id of the process that asks, if it can read the actor's shared memory; else 0.
    """

    key: tuple[int, int]
    shard: Shard
    upcoming: Shard | None
    reader: int = 0

    @staticmethod
    def of(packed: bytes) -> ShardRequest:
        """The inverse of `Requests.pack`."""
        head, shard, upcoming = packed.split(b"\n")
        call_id, reader = map(int, head.split())
        computed = unpack_shard(shard)
        following = unpack_shard(upcoming) if upcoming else None
        return ShardRequest((call_id, computed.index), computed, following, reader)


class Requests:
    """Packs requests: bytes, since Ray pickles everything else object by object, and each shard once.

    A shard is asked for in one call of the executor and announced in the call before, so shards are kept for two calls.
    """

    def __init__(self) -> None:
        self._packed: dict[tuple[int, int], tuple[Shard, bytes]] = {}
        self._before = self._packed

    def start_call(self) -> None:
        """Forget the shards that the last two calls have not asked for."""
        self._before, self._packed = self._packed, {}

    def pack(self, call_id: int, shard: Shard, upcoming: Shard | None, reader: int = 0) -> bytes:
        """The request for a shard, whose carry travels by itself."""
        computed = self.shard(shard)
        following = b"" if upcoming is None else self.shard(upcoming)
        return b"%d %d\n%b\n%b" % (call_id, reader, computed, following)

    def keep(self, shard: Shard, packed: bytes) -> Shard:
        """Take a shard that has arrived packed."""
        self._packed[shard.index, id(shard.specs)] = shard, packed
        return shard

    def shard(self, shard: Shard) -> bytes:
        # By identity, since hashing the specs takes as long as packing them. The tuple kept holds the identity.
        key = shard.index, id(shard.specs)
        kept = self._packed.get(key) or self._before.get(key) or (shard, pack_shard(shard))
        self._packed[key] = kept
        return kept[1]


def pack_shard(shard: Shard) -> bytes:
    """A shard without its carry as bytes, none of which is a line feed."""
    return json.dumps([shard.index, [(spec.index, spec.seed, spec.split) for spec in shard.specs]]).encode()


def unpack_shard(packed: bytes) -> Shard:
    index, specs = json.loads(packed)
    return Shard(index, tuple(TaskSpec(*spec) for spec in specs))


@dataclass(frozen=True)
class ReportWire:
    """A report of an update, with the fields of `Report` and `Update`.

    Attributes:
        grad: The gradient, or where it is; None if it is an object of its own in the object store (`split_grad`).
        compression: Kind and original types of a compressed gradient (see `Compressed`); None if it is not compressed.
        buffers: Running statistics; None if there are none.
        carries: State of the estimator, by index of the shard.
    """

    version: int
    shard: int
    grad: ParamsWire | SharedParams | None
    weight: float
    metrics: dict[str, float]
    finite: bool
    compression: tuple[Kind, dict[str, str]] | None = None
    count: int = 1
    buffers: ParamsWire | None = None
    carries: dict[int, ParamsWire] = field(default_factory=dict)


class Span(NamedTuple):
    """What one shard of a sum has cost its worker.

    Attributes:
        worker: Index of the worker.
        data_wait_s: Seconds that it waited for episodes.
        compute_s: Seconds of computation.
    """

    worker: int
    data_wait_s: float
    compute_s: float


@dataclass(frozen=True)
class ResultWire:
    """A `Result` with its value encoded."""

    shard: int
    value: Any
    worker: int
    data_wait_s: float
    compute_s: float
    spans: tuple[Span, ...] = ()

    @property
    def span(self) -> Span:
        return Span(self.worker, self.data_wait_s, self.compute_s)


@dataclass(frozen=True)
class Location:
    """Where an actor runs.

    Attributes:
        node_id: Ray's id of the node.
        host: Address of the node.
        pid: Id of the process.
        gpus: Ids of its GPUs.
        memory: Memory that it shares; None if it shares none.
    """

    node_id: str
    host: str
    pid: int
    gpus: str = ""
    memory: MemoryPlace | None = None


@dataclass(frozen=True)
class UnitRequest:
    """A request to a leader: compute the shards of a unit.

    Attributes:
        key: Number of the executor's call, and number of the unit.
        work: Name of the work, for which throughput is measured; what to compute comes with the snapshot.
        shards: Its shards, as `pack_shard` packs them.
        upcoming: Shards of the next call, which workers may prepare.
        carries: Carries of those shards that have one.
        excluded: The worker that is not to compute a shard, for some of them.
        reader: Id of the process that asks, if it can read the leader's shared memory; else 0.
    """

    key: tuple[int, int]
    work: str
    shards: tuple[bytes, ...]
    upcoming: tuple[bytes, ...] = ()
    carries: dict[int, ParamsWire] = field(default_factory=dict)
    excluded: dict[int, int] = field(default_factory=dict)
    reader: int = 0


@dataclass(frozen=True)
class LeaderEvent:
    """What a leader tells the driver about one of its workers.

    Attributes:
        worker: Index of the worker.
        process: Id of the process that it is about: the worker may have been replaced meanwhile.
        failure: What failed; None if the worker was released.
        key: The call and the shard at which it failed.
        cause: What the program raised.
    """

    worker: int
    process: int
    failure: Failure | None = None
    key: tuple[int, int] | None = None
    cause: Exception | None = None
