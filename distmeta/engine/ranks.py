"""Lanes over the ranks of a worker: item i is computed by rank i % world.

All ranks call `map` with the same items, and all get all results, in the order of the items: what is summed afterwards
is summed in the order of one process, so that the ranks change no bit.

Frozen weights that are held in parts are gathered by all ranks together. So all ranks make equally many calls (those
without an item left repeat one and drop the result), and each call must gather equally often: ranks may compute other
tasks, not other numbers of inner steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from typing_extensions import override

from distmeta.core.errors import WorkerError
from distmeta.core.ranks import Ranks
from distmeta.engine.lanes import Lanes
from distmeta.models.petl.frozen import gatherings

In = TypeVar("In")
Out = TypeVar("Out")


class RankLanes(Lanes):
    """One lane on each rank.

    Args:
        ranks: This process among them.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(1)
        self._ranks = ranks

    @override
    def chunk(self, num_tasks: int) -> int:
        return math.ceil(num_tasks / self._ranks.world)

    @override
    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
        """`function` of every item, in the order of the items; tensors of the results are on the CPU.

        Raises:
            WorkerError: The ranks did not gather frozen weights equally often.
            PeerError: A rank is lost.
        """
        inputs, world = list(items), self._ranks.world
        own = [
            function(inputs[min(first + self._ranks.rank, len(inputs) - 1)]) for first in range(0, len(inputs), world)
        ]
        gathered = self._ranks.gather((gatherings.count, own))
        counts = [count for count, _ in gathered]
        if len(set(counts)) > 1:
            raise WorkerError(
                f"the ranks have gathered frozen weights {', '.join(map(str, counts))} times: all must make the same "
                "calls in the same order; tasks of one step need equal numbers of inner steps and of examples"
            )
        return [gathered[index % world][1][index // world] for index in range(len(inputs))]
