"""The Ray actor of one rank of a worker: it computes every shard together with the other ranks.

Rank 0's answer is the worker's; the others answer that they have done their part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from typing_extensions import override

from distmeta.config import PartitionConfig
from distmeta.core import ranks
from distmeta.core.ranks import Ranks
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Recipe
from distmeta.runtime.messages import Location, ParamsWire, ShardRequest, SnapshotWire
from distmeta.runtime.process_group import ProcessGroup, open_store, use_interface_of
from distmeta.runtime.ray.actor import WorkerActor
from distmeta.runtime.ray.startup import phase_of

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

JOIN_TIMEOUT_S = 60.0


class RankActor(WorkerActor):
    """A rank. Which one it is, is known when all are placed: Ray places them in no stable order.

    Args:
        worker: Index of the worker.
    """

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._index, self._rank = worker, 0
        self._store: TCPStore | None = None

    def open_store(self, num_ranks: int) -> tuple[str, int]:
        """Open the group's store on this node (rank 0). Returns host and port."""
        with phase_of("address", self._index, 0):
            host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            self._store = open_store(host, num_ranks, JOIN_TIMEOUT_S)
            return host, self._store.port

    def join(
        self, rank: int, num_ranks: int, host: str, port: int, device: str, partition: PartitionConfig, timeout_s: float
    ) -> None:
        """Become a rank of the group; exchanges between ranks may take `timeout_s`."""
        self._rank = rank
        with phase_of("process group", self._index, rank):
            use_interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
            group = ProcessGroup(
                rank,
                num_ranks,
                host,
                port,
                device,
                self._store,
                join_timeout_s=JOIN_TIMEOUT_S,
                timeout_s=timeout_s,
            )
        ranks.join(Ranks(rank, num_ranks, device, group.gather, partition.offload, partition.nvme_path))

    @override
    def start(
        self, index: int, recipe: Recipe, threads: int, compression: Compression, device: str = "cpu"
    ) -> Location:
        with phase_of("model", index, self._rank):
            return super().start(index, recipe, threads, compression, device)

    def follow(self, packed: bytes, wire: SnapshotWire, carry: ParamsWire | None = None) -> None:
        """Compute a shard together with rank 0, which reports it."""
        self._compute(ShardRequest.of(packed), wire, carry)
