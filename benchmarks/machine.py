"""What a machine is asked: how busy it is, operations of a run, and the memory of a process."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from distmeta.core.errors import UserError

MIB = float(1 << 20)
_BUSY_INTERVAL_S = 0.5
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def busy_share() -> float:
    """Share of the processors' time that other processes use, measured while this one waits."""
    return float(psutil.cpu_percent(interval=_BUSY_INTERVAL_S)) / 100.0


def count_flop(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in a run, forward and backward of any order.

    A multiplication and its addition are two operations. Normalisation, activations and updates are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def check_device(device: str, where: str) -> None:
    """Check that this machine has the device.

    Raises:
        UserError: It does not.
    """
    count = torch.cuda.device_count()
    devices = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if device not in devices:
        raise UserError(f"no device '{device}' here", where=where, allowed=", ".join(devices))


def synchronised(run: Callable[[], object], device: str) -> Callable[[], None]:
    """A run that returns only after the device has finished it."""

    def complete() -> None:
        run()
        if device != "cpu":
            torch.cuda.synchronize(device)

    return complete


class MemoryMeter:
    """Peak memory above a base level: resident memory of this process, or what torch allocated on an accelerator.

    The kernel's record of the peak is reset where possible (Linux); elsewhere the peak is that of the process's life.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device, self._base = device, 0.0

    def start(self) -> None:
        """Take the memory in use now as the base level."""
        self._free()
        self._base = float(torch.cuda.memory_allocated(self._device)) if self._on_gpu else _memory_bytes("VmRSS")

    def reset_peak(self) -> None:
        """Discard the peak so far and keep the base level."""
        self._free()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")  # proc(5): resets VmHWM

    def peak_mib(self) -> float:
        """MiB of the peak above the base level."""
        peak = float(torch.cuda.max_memory_allocated(self._device)) if self._on_gpu else _memory_bytes("VmHWM")
        return max(0.0, peak - self._base) / MIB

    @property
    def _on_gpu(self) -> bool:
        return self._device != "cpu"

    def _free(self) -> None:
        """Free what is unreachable, and return freed memory to the system where the C library can (glibc)."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _memory_bytes(field: str) -> float:
    """A field of Linux's status of this process; elsewhere the peak of the process's life."""
    match = re.search(rf"^{field}:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE) if _STATUS.exists() else None
    if match is not None:
        return 1024.0 * float(match[1])
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
