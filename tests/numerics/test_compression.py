"""Compressed updates reach the minimum that exact ones reach, and need error feedback for it."""

from __future__ import annotations

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.types import Report, Update
from distmeta.runtime.compression import Compressor, Kind, decompress
from distmeta.server import ParameterServer

WORKERS, STEPS, SIZE = 4, 400, 300


def distance(kind: Kind, *, feedback: bool) -> float:
    """Distance from the minimum of a sum of quadratics, one worker each.

    The minimum of the sum is no worker's own, so that gradients stay large where their sum vanishes; and their first
    entry is so large that others of its block round to zero in int8.
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(WORKERS, SIZE, generator=generator)
    centres[:, 0] = 1000.0 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    server = ParameterServer({"x": torch.zeros(SIZE)}, OuterConfig(optimizer="SGD", lr=0.1), STEPS)
    compressors = [Compressor(kind) for _ in range(WORKERS)]
    tail = torch.zeros(SIZE)
    for step in range(STEPS):
        here = server.pull().params["x"]
        for worker in range(WORKERS):
            compressor = compressors[worker] if feedback else Compressor(kind)
            grad = decompress(compressor.compress({"x": here - centres[worker]}))
            server.push(Report(step, worker, Update(grad, 1.0)))
        server.step(WORKERS)
        if step >= STEPS // 2:
            tail += server.pull().params["x"] / (STEPS - STEPS // 2)
    return float((tail - centres.mean(dim=0)).norm())


@pytest.mark.parametrize(("kind", "near"), [("bf16", 0.02), ("int8", 0.5)])
def test_error_feedback_reaches_the_minimum(kind: Kind, near: float) -> None:
    assert distance(kind, feedback=True) < near


def test_without_feedback_small_entries_never_move() -> None:
    assert distance("int8", feedback=False) > 5.0
