from __future__ import annotations

import pytest
import torch

from benchmarks.machine import (
    MemoryMeter,
    check_device,
    count_flop,
)
from distmeta.core.errors import UserError
from distmeta.tracking.environment import hardware, hardware_line


def test_the_hardware_line_names_processor_torch_and_date() -> None:
    machine = hardware()
    line = hardware_line(machine)
    assert all(str(machine[name]) in line for name in ("cpu", "cores", "torch", "date"))


def test_a_product_counts_two_operations_for_each_multiplication() -> None:
    left, right = torch.rand(3, 5), torch.rand(5, 7)
    assert count_flop(lambda: left @ right) == 2 * 3 * 5 * 7


@pytest.mark.slow
def test_the_meter_sees_memory_that_has_been_freed() -> None:
    meter = MemoryMeter()
    meter.start()
    meter.reset_peak()
    block = torch.ones(64 << 18)  # 64 MiB
    del block
    assert 48 <= meter.peak_mib() <= 160


def test_an_absent_device_is_refused() -> None:
    check_device("cpu", "--device")
    with pytest.raises(UserError, match="--device: no device 'gpu' here; allowed: cpu"):
        check_device("gpu", "--device")
