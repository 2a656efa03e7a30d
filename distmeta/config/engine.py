"""How a shard of tasks is computed on one device."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distmeta.config.base import Frozen
from distmeta.config.bounds import PositiveCount


class EngineConfig(Frozen):
    """How a shard of tasks is computed on one device.

    Attributes:
        strategy: One task after the other (`loop`), or the tasks of a chunk at once (`vmap`); either as native code
            (`compiled`, `compiled_vmap`). `auto` chooses `loop` or `vmap` by the network, the size of a task and the
            kind of device, the same on every machine. `measured` times them on the first shard and uses the fastest
            for the whole run: faster for long runs, but the choice, and so the last bits of the result, depend on the
            machine.
        chunk: Number of tasks in a chunk of `vmap` and `compiled_vmap`; None takes the whole shard.
        memory: `unrolled` stores the autograd graph of all inner steps. `flat` stores only the states between inner
            steps and recomputes each step in the backward pass (adjoint sweep): the same gradient, in memory that
            hardly grows with the number of steps. `auto` is `flat` beyond 16 inner steps.
        dtype: Floating-point type of parameters and data.
        matmul: Precision of float32 matrix products and convolutions: IEEE float32, or operands rounded to `tf32`
            (CUDA) or `bf16`; `benchmarks/engine/precision.py` measures the error.
        threads_per_chunk: Number of threads that share each operation on a chunk, of those of a worker
            (`runtime.threads_per_worker`). More than 1 pays where a large network has fewer chunks than there are
            threads, as with a single task. The last bits of the result depend on it, as they do on `chunk`, but not on
            the number of cores.
    """

    strategy: Literal["auto", "measured", "loop", "vmap", "compiled", "compiled_vmap"] = "auto"
    chunk: PositiveCount | None = None
    memory: Literal["auto", "unrolled", "flat"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    matmul: Literal["float32", "tf32", "bf16"] = "float32"
    threads_per_chunk: int = Field(1, gt=0, le=1024)
