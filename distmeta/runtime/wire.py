"""What travels between the driver and the workers: flat, without pickled tensors.

Parameters become a header of plain data (names, types, shapes) and arrays of bytes: one array for each large tensor,
which is the tensor's own memory, and one for all small tensors together. Ray moves arrays out of band, so that its
object store makes the only copy on the way out and workers map that copy.

On arrival large tensors are views of what was mapped, where it is aligned as torch aligns; small ones are copied into
memory of their own. So the layout and alignment of the numbers, on which the last bits of a matrix product may depend,
are the same wherever a shard is computed. Views are of read-only memory: nobody writes to what has arrived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distmeta.core.tensors import all_finite
from distmeta.core.types import Params, Report, Snapshot, Update
from distmeta.runtime.compression import Compressed, Compressor, Kind, decompress
from distmeta.server.tree import sum_group

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

ALIGNMENT = 64
"""Bytes to which torch aligns a tensor's memory on the CPU."""
LARGE = 64 << 10
"""Bytes from which a tensor travels as an array of its own."""

Entry = tuple[str, str, tuple[int, ...]]
"""Name, type and shape of one tensor."""
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ParamsWire:
    """Flat parameters.

    Attributes:
        header: The tensors in their order; plain data, fit for JSON.
        small: The bytes of all tensors below `LARGE`, in their order, each from a multiple of `ALIGNMENT` on.
        large: The bytes of each of the others, in their order.
    """

    header: tuple[Entry, ...]
    small: Bytes
    large: tuple[Bytes, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return self.small.nbytes + sum(array.nbytes for array in self.large)


@dataclass(frozen=True)
class SnapshotWire:
    """A snapshot. `serial` differs between any two snapshots that an executor sends, also of one version."""

    serial: int
    version: int
    params: ParamsWire


@dataclass(frozen=True)
class ReportWire:
    """A report of an update; the fields are those of `Report` and `Update`.

    `grad` is None where it stays behind in the object store, to be added to others there (`split`, `sum_reports`).
    `rounding` is the kind and the types of a compressed gradient (see `Compressed`), None of one that is as it was.
    """

    version: int
    shard: int
    grad: ParamsWire | None
    weight: float
    metrics: dict[str, float]
    finite: bool
    rounding: tuple[Kind, dict[str, str]] | None = None
    count: int = 1


@dataclass(frozen=True)
class ResultWire:
    """The value of a shard; the fields are those of `distmeta.runtime.executor.Result`."""

    shard: int
    value: Any
    worker: int
    data_wait_s: float
    compute_s: float


def encode_params(params: Params) -> ParamsWire:
    """Flatten `params`, which may be on any device. Large tensors on the CPU are not copied: do not write to them.

    Raises:
        ValueError: A tensor has a type that does not travel.
    """
    header: list[Entry] = []
    small: list[Bytes] = []
    large: list[Bytes] = []
    for name, tensor in params.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ValueError(f"parameter '{name}' of type {dtype} cannot be sent; allowed: {', '.join(_DTYPES)}")
        header.append((name, dtype, tuple(tensor.shape)))
        array = _bytes(tensor.detach().cpu().contiguous())
        (large if array.size >= LARGE else small).append(array)
    packed = np.zeros(sum(_padded(array.size) for array in small), dtype=np.uint8)
    start = 0
    for array in small:
        packed[start : start + array.size] = array
        start += _padded(array.size)
    return ParamsWire(tuple(header), packed, tuple(large))


def decode_params(wire: ParamsWire) -> Params:
    """The tensors, on the CPU. Large ones are views where their memory is aligned: do not write to them."""
    params: Params = {}
    large, start = iter(wire.large), 0
    for name, dtype, shape in wire.header:
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        if size >= LARGE:
            array = next(large)
        else:
            array = wire.small[start : start + size]
            start += _padded(size)
        if size >= LARGE and array.ctypes.data % ALIGNMENT == 0:
            params[name] = torch.from_numpy(np.asarray(_ReadOnly(array))).view(_DTYPES[dtype]).view(shape)
        else:
            params[name] = torch.empty(shape, dtype=_DTYPES[dtype])
            _bytes(params[name])[:] = array
    return params


def encode_snapshot(snapshot: Snapshot, serial: int) -> SnapshotWire:
    """Flatten a snapshot."""
    return SnapshotWire(serial, snapshot.version, encode_params(snapshot.params))


def decode_snapshot(wire: SnapshotWire) -> Snapshot:
    """The snapshot with tensors of its own."""
    return Snapshot(wire.version, decode_params(wire.params))


def encode_value(value: Any, compressor: Compressor | None = None) -> Any:
    """Flatten a report, and look whether it is finite; anything else (arrays, plain data classes) travels as it is.

    Args:
        value: What the program returned.
        compressor: Compresses the gradient of a report; of one worker, since it keeps what rounding loses.
    """
    if not isinstance(value, Report):
        return value
    update, finite = value.update, value.finite
    grad, rounding = update.grad, None
    if compressor is not None:
        compressed = compressor.compress(grad)
        grad, rounding = compressed.tensors, (compressed.kind, compressed.dtypes)
        finite = compressed.finite and finite is not False
    elif finite is None:
        finite = all_finite(grad)
    return ReportWire(
        value.version,
        value.shard,
        encode_params(grad),
        update.weight,
        dict(update.metrics),
        finite,
        rounding,
        value.count,
    )


def decode_value(value: Any) -> Any:
    """The inverse of `encode_value`."""
    if not isinstance(value, ReportWire):
        return value
    assert value.grad is not None  # it has been joined again
    grad = decode_params(value.grad)
    if value.rounding is not None:
        grad = decompress(Compressed(*value.rounding, grad, value.finite))
    return Report(value.version, value.shard, Update(grad, value.weight, value.metrics), value.finite, value.count)


def split(result: ResultWire) -> tuple[ResultWire, ParamsWire | None]:
    """A result without its gradient, and the gradient; None if it has none."""
    value = result.value
    if not isinstance(value, ReportWire):
        return result, None
    return replace(result, value=replace(value, grad=None)), value.grad


def join(result: ResultWire, grad: ParamsWire | None) -> ResultWire:
    """The inverse of `split`."""
    return result if grad is None else replace(result, value=replace(result.value, grad=grad))


def sum_reports(reports: Sequence[ReportWire]) -> ReportWire:
    """The report of a group of consecutive shards: the sum in their order, with the bits that the server would get."""
    decoded = [decode_value(report) for report in reports]
    total = sum_group([report.update for report in decoded])
    finite = all(report.finite for report in reports)
    report: ReportWire = encode_value(Report(decoded[0].version, decoded[0].shard, total, finite, len(decoded)))
    return report


class _ReadOnly:
    """Lets torch view read-only memory: it takes writable arrays only, and no tensor here is ever written to.

    The array made of it keeps it, and it keeps the memory.
    """

    def __init__(self, array: Bytes) -> None:
        self._owner = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _bytes(tensor: torch.Tensor) -> Bytes:
    """The memory of a contiguous tensor on the CPU, not copied."""
    array: Bytes = tensor.reshape(-1).view(torch.uint8).numpy()
    return array
