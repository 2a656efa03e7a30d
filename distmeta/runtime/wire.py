"""Encodes what travels between the driver and the workers: flat parameters, without pickled tensors.

Parameters become a header of plain data (names, types, shapes) and arrays of bytes: one array for each large tensor,
which is the tensor's own memory, and one for all small tensors together. Ray moves arrays out of band: its object store
makes the only copy when they are sent, and workers map that copy.

On arrival large tensors are views of the mapped memory where it is aligned as torch aligns; small ones are copied into
memory of their own. So the layout and alignment of the numbers, on which the last bits of a matrix product may depend,
are the same wherever a shard is computed. The mapped memory is read-only: do not write to decoded tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from distmeta.core.packed import Layout, Packed, Place
from distmeta.core.tensors import all_finite
from distmeta.core.types import Params, Report, Snapshot, Update, Work
from distmeta.runtime.compression import Compressed, Compressor, decompress
from distmeta.runtime.executor import Result
from distmeta.runtime.messages import (
    ALIGNMENT_BYTES,
    Bytes,
    ParamsWire,
    ReportWire,
    ResultWire,
    SharedParams,
    SnapshotWire,
    TensorHeader,
    padded,
)
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

LARGE_TENSOR_BYTES = 64 << 10
"""Size from which a tensor is sent as an array of its own."""


def encode_params(params: Params) -> ParamsWire:
    """Flatten `params`, which may be on any device. Large tensors on the CPU are not copied: do not write to them.

    Raises:
        ValueError: A tensor has a type that cannot be sent.
    """
    header: list[TensorHeader] = []
    small: list[Bytes] = []
    large: list[Bytes] = []
    for name, tensor in params.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ValueError(f"parameter '{name}' of type {dtype} cannot be sent; allowed: {', '.join(_DTYPES)}")
        header.append((name, dtype, tuple(tensor.shape)))
        array = _bytes(tensor.detach().cpu().contiguous())
        (large if array.size >= LARGE_TENSOR_BYTES else small).append(array)
    packed = np.zeros(sum(padded(array.size) for array in small), dtype=np.uint8)
    start = 0
    for array in small:
        packed[start : start + array.size] = array
        start += padded(array.size)
    return ParamsWire(tuple(header), packed, tuple(large))


def decode_params(wire: ParamsWire) -> Params:
    """Rebuild the tensors on the CPU. Large ones are views where their memory is aligned: do not write to them."""
    params: Params = {}
    large, start = iter(wire.large), 0
    for name, dtype, shape in wire.header:
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        if size >= LARGE_TENSOR_BYTES:
            array = next(large)
        else:
            array = wire.small[start : start + size]
            start += padded(size)
        if size >= LARGE_TENSOR_BYTES and array.ctypes.data % ALIGNMENT_BYTES == 0:
            params[name] = torch.from_numpy(np.asarray(_WritableInterface(array))).view(_DTYPES[dtype]).view(shape)
        else:
            params[name] = torch.empty(shape, dtype=_DTYPES[dtype])
            _bytes(params[name])[:] = array
    return params


def decode_packed(wire: ParamsWire) -> Params:
    """Rebuild a gradient, to be added and forgotten: nothing is copied where memory is aligned. Do not write to it."""
    packed = _packing_of(wire.header)
    if packed is None:
        return decode_params(wire)
    layout, dtypes = packed
    blocks = [_block(array).view(dtype) for array, dtype in zip((wire.small, *wire.large), dtypes, strict=True)]
    return Packed(layout, blocks)


def encode_optional(params: Params) -> ParamsWire | None:
    """Flatten what is mostly empty; None if it is."""
    return encode_params(params) if params else None


def decode_optional(wire: ParamsWire | None) -> Params:
    return {} if wire is None else decode_params(wire)


def encode_snapshot(snapshot: Snapshot, serial: int, work: Work | None = None) -> SnapshotWire:
    params, buffers, extra = snapshot.params, snapshot.buffers, snapshot.extra
    return SnapshotWire(
        serial, snapshot.version, encode_params(params), encode_optional(buffers), encode_optional(extra), work
    )


def decode_snapshot(wire: SnapshotWire) -> Snapshot:
    buffers, extra = decode_optional(wire.buffers), decode_optional(wire.extra)
    return Snapshot(wire.version, decode_params(wire.params), buffers, extra)


def encode_value(value: Any, compressor: Compressor | None = None) -> Any:
    """Flatten a report, and check whether it is finite, or a snapshot. Other values are sent as they are.

    Args:
        value: What the program returned.
        compressor: Compresses the gradients of one worker, whose residual it keeps.
    """
    if isinstance(value, Snapshot):
        return encode_snapshot(value, 0)
    if not isinstance(value, Report):
        return value
    update, finite = value.update, value.finite
    grad, compression = update.grad, None
    if compressor is not None:
        compressed = compressor.compress(grad)
        grad, compression = compressed.tensors, (compressed.kind, compressed.dtypes)
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
        compression,
        value.count,
        encode_optional(update.buffers),
        {shard: encode_params(carry) for shard, carry in value.carries.items()},
    )


def decode_value(value: Any) -> Any:
    if isinstance(value, SnapshotWire):
        return decode_snapshot(value)
    if not isinstance(value, ReportWire):
        return value
    assert isinstance(value.grad, ParamsWire)  # `join_grad` has put it back, or a reader has opened it
    grad = decode_packed(value.grad)
    if value.compression is not None:
        grad = decompress(Compressed(*value.compression, grad, value.finite))
    update = Update(grad, value.weight, value.metrics, decode_optional(value.buffers))
    carries = {shard: decode_params(carry) for shard, carry in value.carries.items()}
    return Report(value.version, value.shard, update, value.finite, value.count, carries)


def decode_result(wire: ResultWire) -> Result:
    return Result(wire.shard, decode_value(wire.value), wire.worker, wire.data_wait_s, wire.compute_s, wire.spans)


def split_grad(result: ResultWire) -> tuple[ResultWire, ParamsWire | None]:
    """Split a result into one without gradient and the gradient; None if it has none."""
    value = result.value
    if not isinstance(value, ReportWire):
        return result, None
    assert not isinstance(value.grad, SharedParams)  # a gradient is an object of its own or shared
    return replace(result, value=replace(value, grad=None)), value.grad


def join_grad(result: ResultWire, grad: ParamsWire | None) -> ResultWire:
    """The inverse of `split_grad`."""
    return result if grad is None else replace(result, value=replace(result.value, grad=grad))


def sum_reports(reports: Sequence[ReportWire], grads: Sequence[ParamsWire | None]) -> ReportWire:
    """Sum the reports of a group in their order, to the same bits as the server would.

    Args:
        reports: Of consecutive shards, or of consecutive groups; without their gradients.
        grads: These.
    """
    decoded = [decode_value(replace(report, grad=grad)) for report, grad in zip(reports, grads, strict=True)]
    total = sum_group([report.update for report in decoded])
    finite = all(report.finite for report in reports)
    carries = {shard: carry for report in decoded for shard, carry in report.carries.items()}
    count = sum(report.count for report in decoded)
    whole = Report(decoded[0].version, decoded[0].shard, total, finite, count, carries)
    report: ReportWire = encode_value(whole)
    return report


class _WritableInterface:
    """An array interface that calls read-only memory writable, since torch takes no other. Nobody writes to it.

    An array made from it references it, and it references the memory.
    """

    def __init__(self, array: Bytes) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _block(array: Bytes) -> torch.Tensor:
    """The bytes as a tensor: a view where they are aligned."""
    if array.ctypes.data % ALIGNMENT_BYTES == 0:
        return torch.from_numpy(np.asarray(_WritableInterface(array)))
    block = torch.empty(array.shape, dtype=torch.uint8)
    block.numpy()[:] = array
    return block


@lru_cache(maxsize=64)
def _packing_of(header: tuple[TensorHeader, ...]) -> tuple[Layout, tuple[torch.dtype, ...]] | None:
    """Where `encode_params` puts tensors, small ones in the first block, and the types of blocks.

    None if the small ones are of several types.
    """
    places: list[Place] = []
    small_types, large_types = set[torch.dtype](), list[torch.dtype]()
    small_sizes, large_sizes = list[int](), list[int]()
    for name, type_name, shape in header:
        dtype, count = _DTYPES[type_name], math.prod(shape)
        if count * dtype.itemsize >= LARGE_TENSOR_BYTES:
            large_types.append(dtype)
            large_sizes.append(count)
            places.append(Place(name, shape, len(large_types), 0))
        else:
            small_types.add(dtype)
            places.append(Place(name, shape, 0, len(small_sizes)))
            small_sizes += [count, padded(count * dtype.itemsize) // dtype.itemsize - count]
    if len(small_types) > 1:
        return None
    dtypes = (*(small_types or {torch.uint8}), *large_types)
    sizes = (tuple(small_sizes), *((size,) for size in large_sizes))
    blocks = enumerate(zip(dtypes, sizes, strict=True))
    keys = [f"block {index}: {dtype} x {sum(pieces)}" for index, (dtype, pieces) in blocks]
    return Layout(tuple(places), sizes, tuple(keys)), dtypes


def _bytes(tensor: torch.Tensor) -> Bytes:
    """View the memory of a contiguous CPU tensor."""
    array: Bytes = tensor.reshape(-1).view(torch.uint8).numpy()
    return array
