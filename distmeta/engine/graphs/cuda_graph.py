"""CUDA graphs: all kernels of a computation as one launch.

A computation is run a few times before it is captured, because libraries allocate memory on their first use, which a
capture forbids. One that cannot be captured runs as it is, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)
_WARM_UPS = 2

Run = Callable[[], Sequence[Tensor]]


@torch.no_grad()
def captured(run: Run, device: torch.device) -> Run:
    """`run` as one launch, or `run` itself if it cannot be captured.

    It must not overlap with another capture, nor with the drawing of random numbers on the device.

    Args:
        run: Reads its inputs from fixed memory.
        device: Where it computes, with an index.

    Returns:
        A function whose results are overwritten by its next call.
    """
    graph, pool, stream = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # of torch's contexts, only this one is left when a capture cannot be ended
        for _ in range(_WARM_UPS):
            run()
        try:
            # Other threads may use the device meanwhile, for example to copy the next episodes.
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                results = run()
        except RuntimeError as error:
            _undo_capture(device, pool)
            reason = (str(error).splitlines() or [""])[0]
            _LOG.warning("a compiled graph cannot be captured as a CUDA graph, and runs slower without: %s", reason)
            return run

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return results

    return replay


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all graphs, since libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _undo_capture(device: torch.device, pool: Any) -> None:
    """Undo what torch leaves behind: its allocator and its random-number generator still expect a capture."""
    with suppress(RuntimeError):  # the allocator's has ended, or did not begin
        torch._C._cuda_endAllocateToPool(device.index, pool)
    generator = torch.cuda.default_generators[device.index]
    generator.graphsafe_set_state(generator.clone_state())
