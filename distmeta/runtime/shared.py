"""Updates in memory that a worker shares with the process that adds them, where both are on one host.

    worker   writes the gradient into a free slot of its memory, once      answers with its place
    reader   maps the slot and adds from there                             frees it when nothing refers to it any more

Ray's object store would take a request to the store, its allocator and a copy for each update, and the driver another
request to read it. Here an answer is small whatever the size of the update, so Ray sends it with the call's reply.

The memory is an anonymous file (memfd), which the reader opens by the worker's process and descriptor: it has no name
that others could use, nothing is left of it when both processes have ended, and it outlives its worker as long as the
reader has it. Its first page says for which process each slot is in use: the worker writes that, the process clears it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distmeta.runtime.messages import Bytes, MemoryPlace, ParamsWire, ReportWire, ResultWire, SharedParams, padded

SHARED_BYTES = 64 << 10
"""Size from which a gradient is shared: Ray sends smaller objects with the reply to a call anyway."""
MAX_SLOTS = 8
MAX_BYTES = 1 << 30
"""A worker whose slots are all in use, or too large together, sends its update through Ray's object store."""
_PAGE = mmap.PAGESIZE
_TOKEN_BYTES = 16
Users = npt.NDArray[np.uint32]
"""The process that each slot is in use for; 0 if it is free."""
_TOKEN_AT = 4 * MAX_SLOTS


class SharedMemory:
    """The memory of a worker, which grows slot by slot as far as updates are under way at a time."""

    def __init__(self) -> None:
        self._file = -1
        with contextlib.suppress(AttributeError, OSError):  # another system, or one that allows no such files
            self._file = os.memfd_create("distmeta-updates", os.MFD_CLOEXEC)
        if self._file >= 0:
            self._token = secrets.token_bytes(_TOKEN_BYTES)
            os.ftruncate(self._file, _PAGE)
            os.pwrite(self._file, self._token, _TOKEN_AT)
            self._users = _users_in(self._file)
        self._slots: list[tuple[int, mmap.mmap]] = []
        self._size = _PAGE

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    @property
    def place(self) -> MemoryPlace | None:
        """Where another process of this host finds it; None where there is no such memory."""
        return None if self._file < 0 else MemoryPlace(os.getpid(), self._file, self._token)

    def share(self, result: ResultWire, reader: int) -> ResultWire:
        """Move the gradient of a result into a free slot.

        Args:
            result: The result.
            reader: Id of the process that will read it; 0 if it cannot.

        Returns:
            The result with the place of the gradient; `result` itself if it stays as it is.
        """
        value = result.value
        if not reader:
            return result
        if not isinstance(value, ReportWire) or not isinstance(value.grad, ParamsWire):
            return result
        shared = self._put(value.grad, reader) if value.grad.num_bytes >= SHARED_BYTES else None
        return result if shared is None else replace(result, value=replace(value, grad=shared))

    def _put(self, params: ParamsWire, reader: int) -> SharedParams | None:
        arrays = (params.small, *params.large)
        sizes = tuple(array.nbytes for array in arrays)
        slot = self._free_slot(sum(map(padded, sizes)))
        if slot is None:
            return None
        offset, memory = self._slots[slot]
        for array, part in zip(arrays, _parts(np.frombuffer(memory, np.uint8), sizes), strict=True):
            part[:] = array
        self._users[slot] = reader
        return SharedParams(params.header, sizes, slot, offset, len(memory))

    def _free_slot(self, size: int) -> int | None:
        """The index of a slot that holds so many bytes, made if there is none; None if there may be no other."""
        free = [index for index in range(len(self._slots)) if not self._users[index]]
        for index in free:
            if len(self._slots[index][1]) >= size:
                return index
        capacity = -(-size // _PAGE) * _PAGE
        if (len(self._slots) == MAX_SLOTS and not free) or self._size + capacity > MAX_BYTES:
            return None
        os.ftruncate(self._file, self._size + capacity)
        made = self._size, mmap.mmap(self._file, capacity, offset=self._size)
        self._size += capacity
        if len(self._slots) < MAX_SLOTS:
            self._slots.append(made)
            return len(self._slots) - 1
        self._slots[free[0]] = made  # updates have grown
        return free[0]


class SharedReader:
    """Another process's memory.

    Args:
        place: Where it is. What was meant for processes that have ended is free from then on.

    Raises:
        OSError: It is not to be found here: the process is of another host or container, or of another user.
    """

    def __init__(self, place: MemoryPlace) -> None:
        self._file = -1
        self._file = os.open(f"/proc/{place.process}/fd/{place.file}", os.O_RDWR | os.O_CLOEXEC)
        if os.pread(self._file, _TOKEN_BYTES, _TOKEN_AT) != place.token:
            raise FileNotFoundError(f"process {place.process} is another one here")
        self._users = _users_in(self._file)
        for slot, user in enumerate(self._users.tolist()):
            if user and not Path(f"/proc/{user}").exists():
                self._users[slot] = 0
        self._slots: dict[int, tuple[int, Bytes]] = {}

    def open(self, result: ResultWire) -> ResultWire:
        """The result with its gradient in place: its slot is free when no array refers to it any more."""
        value = result.value
        if not isinstance(value, ReportWire) or not isinstance(value.grad, SharedParams):
            return result
        return replace(result, value=replace(value, grad=self._get(value.grad)))

    def __del__(self) -> None:
        """Close the file; what has been read from it stays."""
        if self._file >= 0:
            os.close(self._file)

    def _get(self, shared: SharedParams) -> ParamsWire:
        offset, memory = self._slots.get(shared.slot, (-1, None))
        if memory is None or offset != shared.offset:
            mapped = mmap.mmap(self._file, shared.capacity, prot=mmap.PROT_READ, offset=shared.offset)
            memory = np.frombuffer(mapped, np.uint8)
            self._slots[shared.slot] = shared.offset, memory
        small, *large = _parts(np.asarray(_Lease(memory, self._users, shared.slot)), shared.sizes)
        return ParamsWire(shared.header, small, tuple(large))


class _Lease:
    """An array of a slot's bytes refers to it; when the last one is gone, the slot is free."""

    def __init__(self, memory: Bytes, users: Users, slot: int) -> None:
        self._memory, self._users, self._slot = memory, users, slot
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._users[self._slot] = 0


def _users_in(file: int) -> Users:
    return np.frombuffer(mmap.mmap(file, _PAGE), np.uint32, MAX_SLOTS)


def _parts(memory: Bytes, sizes: Sequence[int]) -> list[Bytes]:
    """The bytes of each array, one after the other, aligned as torch aligns."""
    parts, start = [], 0
    for size in sizes:
        parts.append(memory[start : start + size])
        start += padded(size)
    return parts
