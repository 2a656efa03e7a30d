"""Compressed updates converge to the minimum of uncompressed ones if they have error feedback."""

from __future__ import annotations

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.types import Report, Update
from distmeta.runtime.compression import Compressor, Kind, decompress
from distmeta.server import ParameterServer

WORKERS, STEPS, SIZE = 4, 400, 300


def distance(kind: Kind, *, feedback: bool) -> float:
    """Distance of the averaged iterates from the minimum of a sum of quadratics, one for each worker.

    The workers' minima differ, so that their gradients stay large at the minimum of the sum. The first entry is so
    large that the others of its block are rounded to zero in int8.
    """
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(WORKERS, SIZE, generator=generator)
    centres[:, 0] = 1000.0 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    server = ParameterServer({"x": torch.zeros(SIZE)}, OuterConfig(optimizer="SGD", lr=0.1), STEPS)
    compressors = [Compressor(kind) for _ in range(WORKERS)]
    tail = torch.zeros(SIZE)
    for step in range(STEPS):
        x = server.pull().params["x"]
        for worker in range(WORKERS):
            compressor = compressors[worker] if feedback else Compressor(kind)
            grad = decompress(compressor.compress({"x": x - centres[worker]}))
            server.push(Report(step, worker, Update(grad, 1.0)))
        server.step(WORKERS)
        if step >= STEPS // 2:
            tail += server.pull().params["x"] / (STEPS - STEPS // 2)
    return float((tail - centres.mean(dim=0)).norm())


@pytest.mark.parametrize(("kind", "tolerance"), [("bf16", 0.02), ("int8", 0.5)])
def test_error_feedback_reaches_the_minimum(kind: Kind, tolerance: float) -> None:
    assert distance(kind, feedback=True) < tolerance


def test_without_feedback_small_entries_never_move() -> None:
    assert distance("int8", feedback=False) > 5.0
