"""The machine that a number belongs to: its name, its matrix-product peak, and the memory that a process takes."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from distmeta.core.errors import UserError
from distmeta.tracking.environment import package_version

MIB = float(1 << 20)
_LOOK_S = 0.5
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def hardware(device: str = "cpu") -> dict[str, str | int]:
    """Processor, usable cores, accelerator, torch's version and the date."""
    found: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        "torch": torch.__version__,
        "distmeta": package_version("distmeta") or "source tree",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def hardware_line(found: dict[str, str | int]) -> str:
    """The same in one line."""
    gpu = f"{found['gpu']}; " if "gpu" in found else ""
    return f"{gpu}{found['cpu']}, {found['cores']} cores; torch {found['torch']}; {found['date']}"


def busy_share() -> float:
    """Share of the processors that others keep busy, looked at for a moment while this process waits."""
    return float(psutil.cpu_percent(interval=_LOOK_S)) / 100.0


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def matrix_peak_gflops(threads: int, device: str = "cpu", side: int = 2048, runs: int = 5) -> float:
    """The fastest of several float32 products of two square matrices, in GFLOP/s (2 * side^3 operations each).

    Args:
        threads: Intra-op threads.
        device: Where.
        side: Rows and columns.
        runs: Products timed, after one that is not.
    """
    torch.set_num_threads(threads)
    left, right = (torch.rand(side, side, device=device) for _ in range(2))
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 / min(seconds[1:]) / 1e9


def count_flop(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in a run, forward and backward of any order.

    A multiplication and its addition are two operations. Normalisation, activations and updates are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def check_device(device: str, where: str) -> None:
    """Refuse a device that this machine has not.

    Raises:
        UserError: There is no such device.
    """
    count = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if device not in known:
        raise UserError(f"no device '{device}' here", where=where, allowed=", ".join(known))


def synchronise(device: str) -> None:
    """Wait until an accelerator has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


class MemoryMeter:
    """The most memory that was held between two points, above the first one.

    Resident memory of this process, or what torch has allocated on an accelerator. The system's record of the peak is
    reset where it can be (Linux); elsewhere it is that of the whole life of the process.

    Args:
        device: Which memory.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device, self._start = device, 0.0

    def start(self) -> None:
        """Take what is held now, freed blocks given back, as the level to measure from."""
        gc.collect()
        if self._device != "cpu":
            self._start = float(torch.cuda.memory_allocated(self._device))
        else:
            _trim()
            self._start = _status_bytes("VmRSS") or _lifetime_peak_bytes()

    def forget(self) -> None:
        """Forget the peak so far; the level stays."""
        gc.collect()
        if self._device != "cpu":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        _trim()
        if _CLEAR.exists():
            _CLEAR.write_text("5")  # proc(5): resets the record of the peak

    def peak_mib(self) -> float:
        """MiB of the peak above the level."""
        if self._device != "cpu":
            peak = float(torch.cuda.max_memory_allocated(self._device))
        else:
            peak = _status_bytes("VmHWM") or _lifetime_peak_bytes()
        return max(0.0, peak - self._start) / MIB


def _status_bytes(field: str) -> float | None:
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return 1024.0 * float(found[0]) if found else None


def _lifetime_peak_bytes() -> float:
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _trim() -> None:
    """Have the C library give freed memory back, where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
