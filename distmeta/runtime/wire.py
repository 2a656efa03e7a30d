"""What travels between the driver and the workers: flat, without pickled tensors.

Parameters become a header of plain data (names, types, shapes) and one contiguous array of bytes, which Ray moves out
of band: the object store holds one copy a node and workers map it. Decoding copies once into fresh, contiguous,
writable tensors, so that the layout and alignment of the numbers, on which the last bits of a matrix product may
depend, are the same wherever a shard is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distmeta.types import Params, Report, Snapshot, Update

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of one tensor."""


@dataclass(frozen=True)
class ParamsWire:
    """Flat parameters.

    Attributes:
        header: The tensors in their order; plain data, fit for JSON.
        buffer: Their bytes, one after the other: uint8.
    """

    header: tuple[Entry, ...]
    buffer: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SnapshotWire:
    """A snapshot. `serial` differs between any two snapshots that an executor sends, also of one version."""

    serial: int
    version: int
    params: ParamsWire


@dataclass(frozen=True)
class ReportWire:
    """A report of an update."""

    version: int
    shard: int
    grad: ParamsWire
    weight: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class ResultWire:
    """The value of a shard; the fields are those of `distmeta.runtime.executor.Result`."""

    shard: int
    value: Any
    worker: int
    data_wait_s: float
    compute_s: float


def encode_params(params: Params) -> ParamsWire:
    """Copy `params`, on any device, into one array of bytes.

    Raises:
        ValueError: A tensor has a type that does not travel.
    """
    header: list[Entry] = []
    pieces: list[npt.NDArray[np.uint8]] = []
    for name, tensor in params.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ValueError(f"parameter '{name}' of type {dtype} cannot be sent; allowed: {', '.join(_DTYPES)}")
        header.append((name, dtype, tuple(tensor.shape)))
        pieces.append(_bytes(tensor.detach().cpu().contiguous()))
    return ParamsWire(tuple(header), np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint8))


def decode_params(wire: ParamsWire) -> Params:
    """Copy the bytes into new tensors on the CPU, each with memory of its own."""
    params: Params = {}
    start = 0
    for name, dtype, shape in wire.header:
        tensor = torch.empty(shape, dtype=_DTYPES[dtype])
        target = _bytes(tensor)
        target[:] = wire.buffer[start : start + target.size]
        start += target.size
        params[name] = tensor
    return params


def encode_snapshot(snapshot: Snapshot, serial: int) -> SnapshotWire:
    """Flatten a snapshot."""
    return SnapshotWire(serial, snapshot.version, encode_params(snapshot.params))


def decode_snapshot(wire: SnapshotWire) -> Snapshot:
    """The snapshot with tensors of its own."""
    return Snapshot(wire.version, decode_params(wire.params))


def encode_value(value: Any) -> Any:
    """Flatten a report; anything else (arrays, plain data classes) travels as it is."""
    if not isinstance(value, Report):
        return value
    update = value.update
    return ReportWire(value.version, value.shard, encode_params(update.grad), update.weight, dict(update.metrics))


def decode_value(value: Any) -> Any:
    """The inverse of `encode_value`."""
    if not isinstance(value, ReportWire):
        return value
    return Report(value.version, value.shard, Update(decode_params(value.grad), value.weight, value.metrics))


def _bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The memory of a contiguous tensor on the CPU, not copied."""
    array: npt.NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array
