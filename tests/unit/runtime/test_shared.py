"""Updates in shared memory: the same bits, no slot reused while anything refers to it, nothing opened by mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distmeta.core.types import Report, Update
from distmeta.runtime.executor import Result
from distmeta.runtime.messages import MemoryPlace, ParamsWire, ResultWire, SharedParams
from distmeta.runtime.shared import MAX_SLOTS, SharedMemory, SharedReader
from distmeta.runtime.wire import decode_result, encode_value

from ...fakes import bits, make_params

FLOATS = 20_000
READER = os.getpid()


def result(value: float = 0.0, size: int = FLOATS) -> ResultWire:
    grad = {"weight": torch.full((size,), value), "bias": torch.full((3,), -value)}
    return ResultWire(0, encode_value(Report(1, 0, Update(grad, 2.0, {}))), 0, 0.0, 0.0)


def value_of(result: Result) -> float:
    grad = result.value.update.grad
    assert grad["bias"].tolist() == [-grad["weight"][0].item()] * 3
    assert len(set(grad["weight"].tolist())) == 1
    return float(grad["weight"][0])


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def reader(memory: SharedMemory) -> SharedReader:
    return SharedReader(place_of(memory))


def place_of(memory: SharedMemory) -> MemoryPlace:
    assert memory.place is not None
    return memory.place


def slot(sent: ResultWire) -> int:
    assert isinstance(sent.value.grad, SharedParams)
    return sent.value.grad.slot


def test_parameters_of_all_types_come_back_as_they_were(memory: SharedMemory, reader: SharedReader) -> None:
    params = make_params()
    sent = memory.share(ResultWire(0, encode_value(Report(1, 0, Update(params, 2.0, {}))), 0, 0.0, 0.0), READER)
    assert slot(sent) == 0
    assert bits(decode_result(reader.open(sent)).value.update.grad) == bits(params)


def test_a_slot_is_used_again_when_nothing_refers_to_it(memory: SharedMemory, reader: SharedReader) -> None:
    first = decode_result(reader.open(memory.share(result(1.0), READER)))
    kept = first.value.update.grad["weight"][5:7]  # a view of a part is enough
    second = memory.share(result(2.0), READER)
    assert slot(second) == 1
    assert value_of(first) == 1.0
    del first
    assert slot(memory.share(result(3.0), READER)) == 2
    assert kept.tolist() == [1.0, 1.0]
    del kept
    assert slot(memory.share(result(4.0), READER)) == 0
    assert value_of(decode_result(reader.open(second))) == 2.0
    assert slot(memory.share(result(5.0), READER)) == 1


def test_where_all_slots_are_in_use_an_update_is_sent_as_it_is(memory: SharedMemory, reader: SharedReader) -> None:
    held = [reader.open(memory.share(result(float(index)), READER)) for index in range(MAX_SLOTS)]
    plain = memory.share(result(-1.0), READER)
    assert value_of(decode_result(reader.open(plain))) == -1.0
    assert not isinstance(plain.value.grad, SharedParams)
    assert [value_of(decode_result(each)) for each in held] == list(range(MAX_SLOTS))
    del held[3:5]
    assert {slot(memory.share(result(), READER)), slot(memory.share(result(), READER))} == {3, 4}


def test_memory_has_a_limit(memory: SharedMemory, reader: SharedReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distmeta.runtime.shared.MAX_BYTES", 6 * FLOATS)  # an update has four bytes a number
    first = reader.open(memory.share(result(1.0), READER))
    second = memory.share(result(2.0), READER)
    assert (isinstance(first.value.grad, ParamsWire), isinstance(second.value.grad, ParamsWire)) == (True, True)
    del first
    assert slot(memory.share(result(3.0), READER)) == 0


def test_slots_grow_with_the_updates(memory: SharedMemory, reader: SharedReader) -> None:
    for size in (FLOATS, 3 * FLOATS, FLOATS):
        for index in range(MAX_SLOTS + 2):
            opened = decode_result(reader.open(memory.share(result(float(index), size), READER)))
            assert value_of(opened) == index
            assert opened.value.update.grad["weight"].numel() == size


def test_small_updates_and_other_values_are_not_shared(memory: SharedMemory, reader: SharedReader) -> None:
    small, other = result(1.0, size=10), ResultWire(0, {"about": 1}, 0, 0.0, 0.0)
    assert memory.share(small, READER) is small
    assert memory.share(other, READER) is other
    assert reader.open(small) is small
    large = result()
    assert memory.share(large, 0) is large


def test_what_was_meant_for_a_process_that_has_ended_is_free_and_nothing_else(memory: SharedMemory) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    readers = [ended.pid, READER] * (MAX_SLOTS // 2)
    sent = [memory.share(result(float(index)), reader) for index, reader in enumerate(readers)]
    assert not isinstance(memory.share(result(), READER).value.grad, SharedParams)
    later = SharedReader(place_of(memory))
    free = [slot(memory.share(result(), READER)) for _ in range(MAX_SLOTS // 2)]
    assert free == list(range(0, MAX_SLOTS, 2))
    assert [value_of(decode_result(later.open(each))) for each in sent[1::2]] == list(range(1, MAX_SLOTS, 2))


CHILD = """
import json, sys
from dataclasses import astuple
from distmeta.runtime.shared import SharedMemory
from tests.unit.runtime.test_shared import result
memory = SharedMemory()
place, grad = memory.place, memory.share(result(7.0), 1).value.grad
print(json.dumps([place.process, place.file, place.token.hex(), astuple(grad)]), flush=True)
sys.stdin.read()
"""


def test_memory_outlives_its_process_while_it_is_open() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        process, file, token, (header, sizes, *where) = json.loads(child.stdout.readline())
        place = MemoryPlace(process, file, bytes.fromhex(token))
        reader = SharedReader(place)
        child.kill()
    sent = result()
    header = tuple((name, dtype, tuple(shape)) for name, dtype, shape in header)
    sent = replace(sent, value=replace(sent.value, grad=SharedParams(header, tuple(sizes), *where)))
    assert value_of(decode_result(reader.open(sent))) == 7.0
    with pytest.raises(FileNotFoundError):
        SharedReader(place)


def test_another_process_or_file_is_not_opened(memory: SharedMemory, tmp_path: Path) -> None:
    place = place_of(memory)
    with pytest.raises(FileNotFoundError, match="another one here"):
        SharedReader(replace(place, token=bytes(16)))
    (tmp_path / "file").write_bytes(b"x" * 20)
    with (tmp_path / "file").open("r+b") as file, pytest.raises(FileNotFoundError, match="another one here"):
        SharedReader(replace(place, file=file.fileno()))
    assert (tmp_path / "file").read_bytes() == b"x" * 20
    with pytest.raises(OSError):
        SharedReader(replace(place, process=2**30))


def test_where_the_system_has_no_such_memory_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert SharedMemory().place is None
