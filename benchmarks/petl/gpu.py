"""`distmeta bench petl --large`: a large network of random weights on an accelerator, and many resident adapters.

    large       share of the device's own bf16 matrix-product peak that a second-order step of T tasks reaches on a
                network of about a billion weights; its operations are counted, not estimated
    adapters    peak memory with 1,000 adapters resident, beside what the network and the adapters need alone

The sizes are arguments, so that the same code runs on a CPU with tiny ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from benchmarks.machine import MIB, MemoryMeter, count_flop, synchronised
from benchmarks.petl.problems import Problem
from benchmarks.petl.speed import engine_run, started_workload
from benchmarks.timing import timed
from distmeta.models.petl.transformer import Transformer

LARGE: Mapping[str, Any] = {
    "model_type": "bert",
    "hidden_size": 2048,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "intermediate_size": 8192,
    "vocab_size": 30522,
}
"""1.07 billion weights."""
NUM_ADAPTERS = 1000


@dataclass(frozen=True)
class Large:
    """What a step on a large network measured.

    Attributes:
        num_weights: Weights of the network.
        tera_flops: 1e12 operations a second of matrix products, of all orders.
        peak_tera_flops: The same of one large bf16 product.
        adapters: Adapters resident together.
        adapters_mib: What they added to the memory in use.
        alone_mib: Their own bytes.
    """

    num_weights: int
    step_s: float
    tera_flops: float
    peak_tera_flops: float
    adapters: int
    adapters_mib: float
    alone_mib: float

    @property
    def share_of_peak(self) -> float:
        return self.tera_flops / self.peak_tera_flops


def measure_large(
    problem: Problem,
    architecture: Mapping[str, Any] = LARGE,
    adapters: int = NUM_ADAPTERS,
    rounds: int = 3,
    peak_side: int = 8192,
) -> Large:
    """Time a step with products in bf16, and count the memory of resident adapters."""
    large = replace(problem, network=(("architecture", dict(architecture)),))
    workload = started_workload(large)
    engine = workload.config.engine.model_copy(update={"matmul": "bf16"})
    config = workload.config.model_copy(update={"engine": engine})
    run = engine_run("vmap", replace(workload, config=config), 1)
    flop = count_flop(run)
    step_s = median(timed(synchronised(run, problem.device)) for _ in range(rounds))
    meter = MemoryMeter(problem.device)
    meter.start()
    meter.reset_peak()
    resident = [{name: tensor.clone() for name, tensor in workload.meta.items()} for _ in range(adapters)]
    alone = sum(tensor.nbytes for each in resident for tensor in each.values())
    backbone = workload.learner.backbone
    assert isinstance(backbone, Transformer)
    weights = sum(weight.numel() for weight in backbone.network.parameters())
    adapters_mib = meter.peak_mib()
    peak = bf16_peak_tera_flops(problem.device, peak_side)
    return Large(weights, step_s, flop / step_s / 1e12, peak, adapters, adapters_mib, alone / MIB)


def bf16_peak_tera_flops(device: str, side: int, runs: int = 5) -> float:
    """The fastest of several bf16 products of two square matrices."""
    left, right = (torch.rand(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = synchronised(lambda: torch.mm(left, right), device)
    return 2.0 * side**3 / min([timed(product) for _ in range(runs + 1)][1:]) / 1e12


def table(result: Large) -> list[dict[str, object]]:
    return [
        {
            "weights": f"{result.num_weights / 1e9:.2f}e9",
            "s a step": f"{result.step_s:.3g}",
            "TFLOP/s": f"{result.tera_flops:.3g}",
            "of bf16 peak": f"{result.share_of_peak:.1%}",
            "adapters": result.adapters,
            "their MiB": f"{result.adapters_mib:,.0f}",
            "alone MiB": f"{result.alone_mib:,.0f}",
        }
    ]
