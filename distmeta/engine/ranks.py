"""Lanes over the ranks of a worker: item i is computed by rank i % world.

All ranks call `map` with the same items, and all get all results, in the order of the items: what is summed afterwards
is summed in the order of one process, so that the ranks change no bit.

Frozen weights that are held in parts are gathered by all ranks together. So all ranks make equally many calls (those
without an item left repeat one and drop the result), and each call must gather equally often: ranks may compute other
tasks, not other numbers of inner steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor
from typing_extensions import override

from distmeta.core.errors import WorkerError
from distmeta.core.ranks import Ranks
from distmeta.core.types import Params
from distmeta.engine.lanes import Lanes
from distmeta.models.petl.frozen import gatherings

PART = "part"
"""Name of the part of a gradient that a rank has."""

In = TypeVar("In")
Out = TypeVar("Out")


class RankLanes(Lanes):
    """One lane on each rank.

    Args:
        ranks: This process among them.
        chunk: Number of tasks in a chunk, where the configuration leaves it open; None divides a shard by the ranks.
    """

    def __init__(self, ranks: Ranks, chunk: int | None = None) -> None:
        super().__init__(1)
        self._ranks, self._chunk = ranks, chunk

    @override
    def chunk(self, num_tasks: int) -> int:
        return self._chunk or math.ceil(num_tasks / self._ranks.world)

    @override
    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> list[Out]:
        """`function` of every item, in the order of the items; tensors of the results are on the CPU.

        Raises:
            WorkerError: The ranks did not gather frozen weights equally often.
            PeerError: A rank is lost.
        """
        inputs, world = list(items), self._ranks.world
        own = [function(self._own(inputs, first)) for first in range(0, len(inputs), world)]
        gathered = self._gather(own)
        return [gathered[index % world][index // world] for index in range(len(inputs))]

    def _own(self, inputs: Sequence[In], first: int) -> In:
        """This rank's item of those from `first` on; the last one where there is none."""
        return inputs[min(first + self._ranks.rank, len(inputs) - 1)]

    def _gather(self, value: Out) -> list[Out]:
        """The value of each rank, after as many gatherings of frozen weights on all of them."""
        gathered = self._ranks.gather((gatherings.count, value))
        counts = [count for count, _ in gathered]
        if len(set(counts)) > 1:
            raise WorkerError(
                f"the ranks have gathered frozen weights {', '.join(map(str, counts))} times: all must make the same "
                "calls in the same order; tasks of one step need equal numbers of inner steps and of examples"
            )
        return [value for _, value in gathered]


class PartitionLanes(RankLanes):
    """One lane on each rank, whose gradients are divided: each rank has its part of every item's gradient.

    After each round of one item a rank, the parts are exchanged, so that a rank never holds more than one gradient
    whole. They are summed in the order of the items, as whole gradients would be.

    Args:
        ranks: This process among them.
        divide: Exchanges a gradient with all ranks: this rank's part of the gradient of each rank, in their order.
        chunk: As that of `RankLanes`.
    """

    def __init__(self, ranks: Ranks, divide: Callable[[Params], list[Tensor]], chunk: int | None = None) -> None:
        super().__init__(ranks, chunk)
        self._divide = divide

    @override
    def stream(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Estimates with `{PART: the part of the gradient}` instead of their gradients.

        Raises:
            WorkerError, PeerError: As `map`.
        """
        inputs, world = list(items), self._ranks.world
        for first in range(0, len(inputs), world):
            own: Any = function(self._own(inputs, first))  # an estimate: nothing else is summed
            others: list[Any] = self._gather(own._replace(grad={}))
            parts = self._divide(own.grad)
            del own
            for estimate in others[: len(inputs) - first]:
                yield estimate._replace(grad={PART: parts.pop(0)})
            parts.clear()
