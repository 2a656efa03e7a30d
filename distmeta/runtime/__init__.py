"""Where shards are computed: in this process or by Ray actors. Only this package and job submission import Ray."""

from __future__ import annotations

from distmeta.config import RuntimeConfig
from distmeta.runtime.executor import Executor, Recipe
from distmeta.runtime.worker import Compression


def build_executor(
    config: RuntimeConfig, recipe: Recipe, compression: Compression = "none", update_bytes: int = 0
) -> Executor:
    """Start the executor that `config` names.

    Args:
        config: Where and how to run.
        recipe: The program of the workers.
        compression: How updates are rounded on the way (`outer.compression`).
        update_bytes: Size of the parameters, and so of an update.

    Raises:
        UserError: The Ray cluster cannot be reached, or has no room for the workers.
    """
    if config.executor == "local":
        from distmeta.runtime.local import LocalExecutor

        return LocalExecutor(config, recipe, compression)
    from distmeta.runtime.ray.executor import RayExecutor

    return RayExecutor(config, recipe, compression, update_bytes)
