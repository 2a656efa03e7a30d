"""Executors: shards are computed in this process or by Ray actors. Ray is imported only in `runtime.ray`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # messages load no torch
    from distmeta.config import RuntimeConfig
    from distmeta.runtime.compression import Compression
    from distmeta.runtime.executor import Executor, Program, Recipe


def build_executor(
    config: RuntimeConfig,
    recipe: Recipe,
    compression: Compression = "none",
    update_bytes: int = 0,
    *,
    program: Program | None = None,
    leaders: bool = True,
) -> Executor:
    """Start the executor that `config` names.

    Args:
        config: Where and how to compute.
        recipe: The program of the workers.
        compression: How updates are rounded for transport (`outer.compression`).
        update_bytes: Size of the parameters, and so of an update.
        program: The recipe's program, if this process has built it already: the `local` executor uses it.
        leaders: Whether leaders may stand between driver and workers (`runtime.leaders`).

    Raises:
        UserError: The Ray cluster cannot be reached, or has not enough resources for the workers; or this process is to
            compute, and does not have the device.
    """
    if config.executor == "local":
        from distmeta.runtime.local import LocalExecutor

        return LocalExecutor(config, program or recipe.build(), compression)
    from distmeta.runtime.policy.leaders import num_leaders
    from distmeta.runtime.ray.cluster import connect_and_count
    from distmeta.runtime.ray.executor import RayExecutor
    from distmeta.runtime.ray.led_executor import LedExecutor

    config, cluster = connect_and_count(config, update_bytes)
    led = leaders and config.ranks == 1 and num_leaders(config.leaders, config.max_workers) > 0
    return (LedExecutor if led else RayExecutor)(config, recipe, compression, update_bytes, cluster=cluster)
