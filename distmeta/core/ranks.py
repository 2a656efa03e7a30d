"""The ranks of a worker: processes that hold one backbone in parts and compute every shard together.

A process sets `current` before it builds its program; without, it is the only rank. Knows no torch and no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distmeta.core.errors import PeerError


@contextmanager
def exchange(what: str) -> Iterator[None]:
    """A block in which this rank exchanges data with the others.

    Raises:
        PeerError: It fails as exchanges do (torch raises a RuntimeError): the fault is seldom that of this rank.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PeerError(f"{what} failed ({line})") from error


def _alone(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of its worker.

    Attributes:
        rank: Number of this process.
        world: Number of ranks.
        device: Device of every rank.
        gather: Exchanges a value (a pytree of tensors and plain data) with all ranks, which call it together: the
            values in the order of the ranks, their tensors on the CPU. Raises `PeerError` if a rank is lost.
        offload: Where each rank keeps its part of the frozen weights: on the device (`none`), `cpu` or `nvme`.
        nvme_path: Folder of the parts with `nvme`.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    gather: Callable[[Any], list[Any]] = _alone
    offload: str = "none"
    nvme_path: str | None = None


current = Ranks()
"""Of this process; read it as `ranks.current`, since it is replaced."""


def join(ranks: Ranks) -> None:
    """Make this process one of several ranks."""
    global current
    current = ranks
