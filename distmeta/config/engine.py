"""How a shard of tasks is computed on one device."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from distmeta.config.base import Frozen


class EngineConfig(Frozen):
    """How a shard of tasks is computed on one device.

    Attributes:
        strategy: One task after the other (`loop`), or the tasks of a chunk at once (`vmap`); either as native code
            (`compiled`, `compiled_vmap`). `auto` times them on the first shard and fixes the fastest for the run.
        chunk: Tasks at once with `vmap` and `compiled_vmap`; None takes the whole shard.
        memory: Keep what the way back through adaptation needs (`unrolled`), or only the states between inner steps,
            computing the rest again (`flat`): the same gradient in memory that hardly grows with the number of steps.
            `auto` is `flat` beyond 16 inner steps.
        dtype: Floating-point type of parameters and data.
        matmul: How float32 products are computed: exactly, or with factors rounded to `tf32` (CUDA) or `bf16`, at an
            error that `benchmarks/engine/precision.py` measures.
    """

    strategy: Literal["auto", "loop", "vmap", "compiled", "compiled_vmap"] = "auto"
    chunk: PositiveInt | None = None
    memory: Literal["auto", "unrolled", "flat"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    matmul: Literal["float32", "tf32", "bf16"] = "float32"
