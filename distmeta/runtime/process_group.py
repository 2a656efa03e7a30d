"""The process group of a worker's ranks (`torch.distributed`): Gloo on CPUs, with NCCL beside it on GPUs.

Rank 0 opens a store at a free port of its own node; the others find each other through it. Weights travel in the
default group, results of tasks in a second one, so that a result is never taken for a weight.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import psutil
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore
from torch.utils import _pytree as pytree

from distmeta.core.errors import PeerError
from distmeta.core.ranks import exchange


def open_store(host: str, world: int, timeout_s: float) -> TCPStore:
    """Open the store of a group on this node, at a free port."""
    return TCPStore(host, 0, world, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


def use_interface_of(address: str) -> None:
    """Let Gloo and NCCL use the network interface with this address of the node, unless the environment names one.

    Gloo would take the one that the host's name resolves to, which on many machines is the loopback's.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


class ProcessGroup:
    """A rank of a process group; makes its process one of several ranks.

    Args:
        rank: Number of this process.
        world: Number of ranks.
        host: Address of the store.
        port: Its port.
        device: Device that weights are gathered on.
        store: The store, in the process that opened it.
        join_timeout_s: Seconds in which all ranks must have come.
        timeout_s: Seconds of any later exchange.

    Raises:
        PeerError: They have not.
    """

    def __init__(
        self,
        rank: int,
        world: int,
        host: str,
        port: int,
        device: str,
        store: TCPStore | None,
        *,
        join_timeout_s: float,
        timeout_s: float,
    ) -> None:
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": "0",  # each process sees its own device only
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }
        if device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        with exchange("joining the process group"):
            if store is None:
                timeout = timedelta(seconds=join_timeout_s)
                store = TCPStore(host, port, world, is_master=False, timeout=timeout, wait_for_workers=False)
            _meet(store, rank, world, join_timeout_s)
            backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
            timeout = timedelta(seconds=timeout_s)
            dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
            self._results = dist.new_group(backend="gloo", timeout=timeout)
        self._world = world

    def gather(self, value: Any) -> list[Any]:
        """Exchange a pytree with all ranks: their values in order, tensors on the CPU.

        Raises:
            PeerError: A rank is lost, or does not call this in time.
        """
        # A copy: a tensor that is a view would travel with all that it is a view of.
        local = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu().clone(), value)
        values: list[Any] = [None] * self._world
        with exchange("exchanging results of tasks with the ranks"):
            dist.all_gather_object(values, local, group=self._results)
        return values

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def _meet(store: TCPStore, rank: int, world: int, timeout_s: float) -> None:
    """Wait for all ranks at the store, where a rank that does not come is named."""
    store.set(f"rank/{rank}", "here")
    for other in range(world):
        try:
            store.wait([f"rank/{other}"], timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise PeerError(f"rank {other} of {world} did not come within {timeout_s:g} s") from error
