"""Resources for the ranks of a worker: all at the same time, or none (a placement group)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def reserve(resources: Mapping[str, float], num_ranks: int) -> Any:
    """Ask for resources of all ranks, as near to each other as there is room. Returns at once."""
    return placement_group([dict(resources) for _ in range(num_ranks)], strategy="PACK")


def in_bundle(group: Any, index: int) -> Any:
    """Scheduling strategy of the actor that takes one rank's resources."""
    return PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=index)


def release(group: Any) -> None:
    """Give the resources back; actors that still use them are killed."""
    remove_placement_group(group)
