"""The most float32 operations a second that any kernel here reaches: products of several libraries, and a loop of
fused multiply-adds in registers, which is what the processor's units can do at all.

A share of "the peak" says little if the peak is that of one library's product: oneDNN's convolutions may be faster.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks.machine import synchronised
from benchmarks.timing import timed

_FMA_SOURCE = r"""
#define LANES 16
#define CHAINS 12
typedef float vector __attribute__((vector_size(LANES * sizeof(float))));
float fma_loop(long count) {
    vector sums[CHAINS], factor, term;
    for (int lane = 0; lane < LANES; ++lane) { factor[lane] = 0.999999f; term[lane] = 1e-6f; }
    for (int chain = 0; chain < CHAINS; ++chain)
        for (int lane = 0; lane < LANES; ++lane) sums[chain][lane] = chain;
    for (long step = 0; step < count; ++step) {
        #pragma GCC unroll 12
        for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = sums[chain] * factor + term;
    }
    float total = 0;
    for (int chain = 0; chain < CHAINS; ++chain)
        for (int lane = 0; lane < LANES; ++lane) total += sums[chain][lane];
    return total;
}
"""
_FLOP_OF_A_STEP = 2 * 16 * 12
_FMA_STEPS = 4_000_000
_RUNS = 5


def peak_gflops(threads: int, device: str = "cpu", side: int = 2048) -> dict[str, float]:
    """The fastest of several runs of each kernel, in GFLOP/s.

    Args:
        threads: Intra-operation threads.
        device: `cpu`, `cuda` or `cuda:N`.
        side: Rows and columns of the largest square product; other kernels have about as many operations.
    """
    torch.set_num_threads(threads)
    kernels = {**_products(side, device), **_convolutions(side, device)}
    found = {name: _fastest(run, flop, device) for name, (run, flop) in kernels.items()}
    if device == "cpu" and (loop := _fma_loop()) is not None:
        found["fused multiply-adds"] = _fastest_fma(loop, threads)
    return found


def best(peaks: Mapping[str, float]) -> tuple[str, float]:
    """The fastest kernel and its GFLOP/s."""
    return max(peaks.items(), key=lambda item: item[1])


Kernels = dict[str, tuple[Callable[[], object], float]]
"""Name -> a run, and its operations."""


def _products(side: int, device: str) -> Kernels:
    kernels: Kernels = {}
    for rows in (side, max(1, side // 4)):
        left, right = (torch.rand(rows, rows, device=device) for _ in range(2))
        kernels[f"product of {rows}"] = (functools.partial(torch.mm, left, right), 2.0 * rows**3)
    return kernels


def _convolutions(side: int, device: str) -> Kernels:
    """As conv4's: 64 filters on small images, channels last."""
    kernels: Kernels = {}
    images = max(1, side**3 // (14 * 14 * 64 * 64 * 9))
    for width in (1, 3):
        count = images * (9 if width == 1 else 1)
        inputs = torch.rand(count, 64, 14, 14, device=device).contiguous(memory_format=torch.channels_last)
        weight = torch.rand(64, 64, width, width, device=device).contiguous(memory_format=torch.channels_last)
        run = functools.partial(functional.conv2d, inputs, weight, padding=width // 2)
        kernels[f"convolution {width}x{width}"] = (run, 2.0 * count * 14 * 14 * 64 * 64 * width**2)
    return kernels


def _fastest(run: Callable[[], object], flop: float, device: str) -> float:
    complete = synchronised(run, device)
    complete()
    return flop / min(timed(complete) for _ in range(_RUNS)) / 1e9


def _fastest_fma(loop: Callable[[int], float], threads: int) -> float:
    """One loop on each thread."""
    with ThreadPoolExecutor(threads) as pool:

        def run() -> None:
            list(pool.map(loop, [_FMA_STEPS] * threads))

        run()
        return threads * _FLOP_OF_A_STEP * _FMA_STEPS / min(timed(run) for _ in range(_RUNS)) / 1e9


@functools.cache
def _fma_loop() -> Callable[[int], float] | None:
    """The compiled loop, which runs without the interpreter's lock; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="distmeta-peak-") as folder:
        source, library = Path(folder) / "fma.c", Path(folder) / "fma.so"
        source.write_text(_FMA_SOURCE)
        flags = ("-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
        done = subprocess.run([compiler, *flags, str(source), "-o", str(library)], capture_output=True, check=False)
        if done.returncode:
            return None
        loop = ctypes.CDLL(str(library)).fma_loop
    loop.argtypes, loop.restype = (ctypes.c_long,), ctypes.c_float
    return loop
