"""The flat encoding of messages."""

from __future__ import annotations

import gc
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from distmeta.core.packed import Packed
from distmeta.core.types import Params, Report, Shard, Snapshot, TaskSpec, Update
from distmeta.runtime import messages
from distmeta.runtime.compression import Compressor, Kind, decompress
from distmeta.runtime.messages import Bytes, ParamsWire, Requests, ResultWire, ShardRequest, pack_shard
from distmeta.runtime.wire import (
    ALIGNMENT_BYTES,
    LARGE_TENSOR_BYTES,
    decode_packed,
    decode_params,
    decode_result,
    decode_snapshot,
    decode_value,
    encode_params,
    encode_snapshot,
    encode_value,
    join_grad,
    split_grad,
    sum_reports,
)

from ...fakes import bits, make_params


def make_large() -> Params:
    """Small and large tensors in turn, one of them just large enough."""
    generator = torch.Generator().manual_seed(1)
    large = LARGE_TENSOR_BYTES // 4
    shapes = {"a": (), "b": (large,), "c": (5,), "d": (large - 1,), "e": (0, 3), "f": (200, 300), "g": (7, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def received(wire: ParamsWire, offset: int = 0) -> ParamsWire:
    """What arrives elsewhere: read-only arrays in other memory, `offset` bytes from where torch would align them."""

    def moved(array: Bytes) -> Bytes:
        memory = np.empty(array.size + 2 * ALIGNMENT_BYTES, dtype=np.uint8)
        start = -memory.ctypes.data % ALIGNMENT_BYTES + offset
        memory[start : start + array.size] = array
        memory.flags.writeable = False
        return memory[start : start + array.size]

    return replace(wire, small=moved(wire.small), large=tuple(moved(array) for array in wire.large))


@pytest.mark.parametrize("params", [make_params(), make_large(), {}], ids=["small", "large", "none"])
@pytest.mark.parametrize("offset", [0, 1, 16])
def test_parameters_keep_their_bits_order_and_types(params: Params, offset: int) -> None:
    decoded = decode_params(received(encode_params(params), offset))
    assert list(decoded) == list(params)
    assert bits(decoded) == bits(params)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 1e-45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [3, LARGE_TENSOR_BYTES])
def test_special_numbers_keep_their_bits(value: float, dtype: torch.dtype, size: int) -> None:
    params = {"x": torch.full((size,), value, dtype=dtype)}
    assert bits(decode_params(encode_params(params))) == bits(params)


def test_the_header_is_plain_data() -> None:
    assert json.loads(json.dumps(encode_params(make_params()).header))[0] == ["body.weight", "float32", [300, 64]]


def test_large_tensors_are_encoded_and_decoded_without_a_copy() -> None:
    params = make_large()
    wire = encode_params(params)
    assert [array.ctypes.data for array in wire.large] == [params[name].data_ptr() for name in ("b", "f")]
    arrived = received(wire)
    decoded = decode_params(arrived)
    assert [array.ctypes.data for array in arrived.large] == [decoded[name].data_ptr() for name in ("b", "f")]
    assert wire.num_bytes == sum(array.nbytes for array in (wire.small, *wire.large))


def test_only_small_tensors_are_pickled_with_their_bytes() -> None:
    """Ray moves what protocol 5 puts out of band; the rest is copied once more."""
    buffers: list[pickle.PickleBuffer] = []
    inside = pickle.dumps(encode_params(make_large()), protocol=5, buffer_callback=buffers.append)
    assert len(inside) < 2000
    assert len(buffers) == 3


@pytest.mark.parametrize("offset", [0, 4])
def test_decoded_tensors_are_contiguous_and_aligned(offset: int) -> None:
    decoded = decode_params(received(encode_params(make_large()), offset))
    for tensor in decoded.values():
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % ALIGNMENT_BYTES == 0


def test_views_keep_their_memory() -> None:
    params = make_large()
    decoded = decode_params(received(encode_params(params)))
    gc.collect()
    filler = [np.full(LARGE_TENSOR_BYTES, 255, dtype=np.uint8) for _ in range(64)]
    assert bits(decoded) == bits(params)
    assert len(filler) == 64


def test_small_tensors_share_no_memory() -> None:
    wire = received(encode_params(make_params()))
    decoded = decode_params(wire)
    small = [tensor for tensor in decoded.values() if tensor.nbytes < LARGE_TENSOR_BYTES]
    before = wire.small.tobytes()
    for tensor in small:
        tensor.zero_()
    assert wire.small.tobytes() == before
    assert len({tensor.untyped_storage().data_ptr() for tensor in decoded.values() if tensor.numel()}) == 5


def test_tensors_that_are_not_contiguous_keep_their_order() -> None:
    params = {"x": torch.arange(6.0).reshape(2, 3).T, "y": torch.arange(2.0 * LARGE_TENSOR_BYTES).reshape(2, -1).T}
    assert bits(decode_params(encode_params(params))) == bits(params)


def test_tensors_that_require_grad_are_sent_without_history() -> None:
    decoded = decode_params(encode_params({"x": torch.ones(2, requires_grad=True) * 2}))
    assert not decoded["x"].requires_grad


def test_a_type_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ValueError, match="'z' of type complex64"):
        encode_params({"z": torch.zeros(1, dtype=torch.complex64)})


def test_snapshot_keeps_its_version() -> None:
    decoded = decode_snapshot(encode_snapshot(Snapshot(7, make_params()), serial=1))
    assert decoded.version == 7
    assert bits(decoded.params) == bits(make_params())


def test_reports_are_flattened_and_restored() -> None:
    report = Report(3, 5, Update(make_params(), 2.0, {"loss": 0.1}))
    decoded = decode_value(encode_value(report))
    assert (decoded.version, decoded.shard, decoded.update.weight) == (3, 5, 2.0)
    assert decoded.update.metrics == {"loss": 0.1}
    assert bits(decoded.update.grad) == bits(make_params())


@pytest.mark.parametrize("value", [1.0, math.inf, math.nan])
def test_the_sender_of_a_report_checks_whether_it_is_finite(value: float) -> None:
    report = Report(0, 0, Update({"x": torch.tensor([0.0, value])}, 1.0))
    assert decode_value(encode_value(report)).finite is math.isfinite(value)
    assert decode_value(encode_value(replace(report, finite=False))).finite is False


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_compressed_reports_are_restored_as_they_were_rounded(kind: Kind) -> None:
    sender, alone = Compressor(kind), Compressor(kind)
    for version in range(3):
        report = Report(version, 5, Update(make_large(), 2.0, {"loss": 0.1}))
        wire = encode_value(report, sender)
        assert wire.grad.num_bytes < encode_value(report).grad.num_bytes * 0.55
        decoded = decode_value(wire)
        assert bits(decoded.update.grad) == bits(decompress(alone.compress(make_large())))
        assert (decoded.version, decoded.shard, decoded.update.weight, decoded.finite) == (version, 5, 2.0, True)


def test_compressed_reports_that_are_not_finite_say_so() -> None:
    report = Report(0, 0, Update({"x": torch.tensor([0.0, math.nan])}, 1.0))
    assert decode_value(encode_value(report, Compressor("int8"))).finite is False
    finite = replace(report, update=Update({"x": torch.ones(2)}, 1.0))
    assert decode_value(encode_value(replace(finite, finite=False), Compressor("int8"))).finite is False
    assert decode_value(encode_value(finite, Compressor("int8"))).finite is True


@pytest.mark.parametrize("value", [None, 1.5, {"a": (1, 2)}, "text"])
def test_other_values_are_sent_as_they_are(value: object) -> None:
    assert decode_value(encode_value(value)) is value


def test_results_are_split_from_their_gradient_and_joined_again() -> None:
    result = ResultWire(5, encode_value(Report(3, 5, Update(make_params(), 2.0))), 1, 0.25, 0.5)
    without, grad = split_grad(result)
    assert without.value.grad is None
    decoded = decode_result(join_grad(without, grad))
    assert (decoded.shard, decoded.worker, decoded.data_wait_s, decoded.compute_s) == (5, 1, 0.25, 0.5)
    assert bits(decoded.value.update.grad) == bits(make_params())


def test_results_without_gradient_are_not_split() -> None:
    result = ResultWire(5, {"accuracy": 0.5}, 1, 0.25, 0.5)
    assert split_grad(result) == (result, None)
    assert join_grad(result, None) is result


def test_a_group_is_summed_in_the_order_of_its_shards() -> None:
    values = [1.0, 2.0**-24, 2.0**-24, -1.0]
    reports = [
        encode_value(Report(7, 16 + place, Update({"x": torch.tensor([value])}, 1.0, {"loss": value})))
        for place, value in enumerate(values)
    ]
    total = decode_value(sum_reports(reports, [report.grad for report in reports]))
    assert (total.version, total.shard, total.count, total.update.weight, total.finite) == (7, 16, 4, 4.0, True)
    assert total.update.grad["x"].item() == 0.0  # ((1 + 2^-24) + 2^-24) - 1 in float32
    reports[3] = replace(reports[3], finite=False)
    assert decode_value(sum_reports(reports, [report.grad for report in reports])).finite is False


def test_groups_are_summed_to_groups_of_more_shards() -> None:
    first, second = (
        encode_value(Report(7, shard, Update({"x": torch.tensor([value])}, 16.0), count=16))
        for shard, value in ((256, 1.0), (272, 2.0))
    )
    total = decode_value(sum_reports([first, second], [first.grad, second.grad]))
    assert (total.shard, total.count, total.update.weight, total.update.grad["x"].item()) == (256, 32, 32.0, 3.0)


def test_statistics_vectors_and_states_arrive_as_they_were_sent() -> None:
    buffers, extra, carry = {"mean": torch.rand(3)}, {"direction": torch.rand(2)}, {"age": torch.arange(4)}
    snapshot = decode_snapshot(encode_snapshot(Snapshot(3, make_params(), buffers, extra), 1))
    assert (bits(snapshot.buffers), bits(snapshot.extra)) == (bits(buffers), bits(extra))
    report = Report(3, 1, Update(make_params(), 2.0, {"loss": 1.0}, buffers), carries={1: carry})
    arrived = decode_value(encode_value(report))
    assert bits(arrived.update.buffers) == bits(buffers)
    assert {shard: bits(state) for shard, state in arrived.carries.items()} == {1: bits(carry)}
    other = replace(report, shard=2, carries={2: carry})
    reports = [encode_value(report), encode_value(other)]
    total = decode_value(sum_reports(reports, [report.grad for report in reports]))
    assert sorted(total.carries) == [1, 2]
    assert torch.equal(total.update.buffers["mean"], 2 * buffers["mean"])


def test_a_request_is_bytes_and_each_shard_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    monkeypatch.setattr(messages, "pack_shard", lambda shard: (packed.append(shard.index), pack_shard(shard))[1])
    shard, upcoming = (Shard(index, (TaskSpec(0, 2**62, "a\nb"), TaskSpec(1, 5, "train"))) for index in (3, 4))
    requests = Requests()
    for call_id in range(2):
        requests.start_call()
        assert ShardRequest.of(requests.pack(call_id, shard, upcoming)) == ShardRequest((call_id, 3), shard, upcoming)
        shard, upcoming = upcoming, shard
        assert ShardRequest.of(requests.pack(call_id, shard, None)) == ShardRequest((call_id, shard.index), shard, None)
        shard, upcoming = upcoming, shard
    carried = replace(shard, carry={"x": torch.zeros(1)})
    assert ShardRequest.of(requests.pack(9, carried, None)).shard.carry == {}
    assert packed == [3, 4]
    for _ in range(2):
        requests.start_call()
    requests.pack(10, shard, None)
    assert packed == [3, 4, 3]


def test_a_gradient_is_packed_unless_its_small_tensors_are_of_several_types() -> None:
    large = make_large()
    packed = decode_packed(encode_params(large))
    assert isinstance(packed, Packed)
    assert bits(packed) == bits(large)
    assert list(packed) == list(large)
    assert decode_packed(encode_params(large)).layout is packed.layout  # type: ignore[attr-defined]
    assert not isinstance(decode_packed(encode_params(make_params())), Packed)
    assert bits(decode_packed(encode_params(make_params()))) == bits(make_params())
    assert bits(decode_packed(encode_params({}))) == {}


def test_a_gradient_in_misaligned_memory_is_copied() -> None:
    wire = encode_params(make_large())
    memory = np.zeros(wire.small.size + 1, dtype=np.uint8)
    memory[1:] = wire.small
    packed = decode_packed(replace(wire, small=memory[1:]))
    assert bits(packed) == bits(make_large())
    memory[:] = 0
    assert bits(packed) == bits(make_large())
