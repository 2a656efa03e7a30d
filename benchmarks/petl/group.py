"""Rows of `distmeta bench petl` that need more than one process or another machine: named with the reason without them.

group   resident bytes per rank and step time of a worker whose frozen weights are divided over ranks (ZeRO-3),
        beside those of a worker with a whole copy
"""

from __future__ import annotations

from distmeta.config import RuntimeConfig


def left_out_groups() -> str | None:
    """Why groups are not measured; None where they can be."""
    if "ranks" not in RuntimeConfig.model_fields:
        return "this version has no workers of several ranks (runtime.ranks)"
    return None
