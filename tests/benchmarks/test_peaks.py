"""The yardsticks of the machine."""

from __future__ import annotations

import shutil

import pytest
import torch

from benchmarks import peaks
from benchmarks.peaks import best, peak_gflops


@pytest.fixture(autouse=True)
def _short_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_FMA_STEPS", 1000)


def test_every_kernel_has_a_rate() -> None:
    threads = torch.get_num_threads()
    found = peak_gflops(1, side=32)
    torch.set_num_threads(threads)
    assert set(found) == {
        *("product of 32", "product of 8", "convolution 1x1", "convolution 3x3"),
        *(("fused multiply-adds",) if shutil.which("cc") else ()),
    }
    assert all(rate > 0 for rate in found.values())
    assert best(found)[1] == max(found.values())


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_loop_computes_what_it_says() -> None:
    loop = peaks._fma_loop()
    assert loop is not None
    one = loop(1)
    assert one == pytest.approx(16 * sum(chain * 0.999999 + 1e-6 for chain in range(12)), rel=1e-6)


def test_without_a_compiler_the_libraries_count(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks._fma_loop.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert peaks._fma_loop() is None
    peaks._fma_loop.cache_clear()
