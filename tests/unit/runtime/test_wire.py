"""The flat encoding of what travels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from distmeta.runtime.wire import (
    decode_params,
    decode_snapshot,
    decode_value,
    encode_params,
    encode_snapshot,
    encode_value,
)
from distmeta.types import Report, Snapshot, Update

from ...fakes import bits, make_params


def test_parameters_keep_their_bits_order_and_types() -> None:
    params = make_params()
    decoded = decode_params(encode_params(params))
    assert list(decoded) == list(params)
    assert bits(decoded) == bits(params)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 1e-45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_peculiar_numbers_keep_their_bits(value: float, dtype: torch.dtype) -> None:
    params = {"x": torch.full((3,), value, dtype=dtype)}
    assert bits(decode_params(encode_params(params))) == bits(params)


def test_the_header_is_plain_data_and_the_buffer_one_array() -> None:
    wire = encode_params(make_params())
    assert json.loads(json.dumps(wire.header))[0] == ["body.weight", "float32", [300, 64]]
    assert wire.buffer.dtype == np.uint8
    assert wire.buffer.flags.c_contiguous


def test_decoded_tensors_are_contiguous_and_share_no_memory() -> None:
    wire = encode_params(make_params())
    wire.buffer.flags.writeable = False  # as Ray hands it out
    decoded = decode_params(wire)
    before = wire.buffer.tobytes()
    for tensor in decoded.values():
        assert tensor.is_contiguous()
        tensor.zero_()
    assert wire.buffer.tobytes() == before
    assert len({tensor.untyped_storage().data_ptr() for tensor in decoded.values() if tensor.numel()}) == 5


def test_tensors_that_require_grad_travel_without_history() -> None:
    decoded = decode_params(encode_params({"x": torch.ones(2, requires_grad=True) * 2}))
    assert not decoded["x"].requires_grad


def test_a_type_that_does_not_travel_is_named() -> None:
    with pytest.raises(ValueError, match="'z' of type complex64"):
        encode_params({"z": torch.zeros(1, dtype=torch.complex64)})


def test_no_parameters_at_all() -> None:
    assert decode_params(encode_params({})) == {}


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


@pytest.mark.parametrize("value", [None, 1.5, {"a": (1, 2)}, "text"])
def test_other_values_travel_as_they_are(value: object) -> None:
    assert decode_value(encode_value(value)) is value
