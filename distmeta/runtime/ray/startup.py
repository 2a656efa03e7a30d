"""The start of a worker that has several ranks, phase by phase. Knows no Ray and no clock.

placement      Ray has reserved resources for all ranks, and their processes run
address        rank 0 has opened the group's store on its own node
process group  the ranks have found each other there
model          each has built its program, with its part of the frozen weights
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from distmeta.core.errors import PeerError, UserError, WorkerError

Phase = Literal["placement", "address", "process group", "model"]

PHASES: tuple[Phase, ...] = ("placement", "address", "process group", "model")
CHECKS: dict[Phase, str] = {
    "placement": "that the cluster has room for all ranks of a worker at the same time (runtime.ranks, "
    "runtime.cpus_per_worker, runtime.gpus_per_worker)",
    "address": "that a process on the node of rank 0 may listen on the node's address",
    "process group": "that the nodes reach each other on all ports, and that GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) "
    "names their network interface where they have several",
    "model": "the memory of the nodes, and that all of them have the model's files",
}
"""What to check when a phase fails."""


@dataclass
class StartUp:
    """How far the start of a worker is. All times are seconds of one monotonic clock.

    Attributes:
        num_ranks: Number of ranks.
        since: When the present phase began.
        phase: The present phase.
        answered: Ranks that have finished it.
        seconds: Duration of each finished phase.
    """

    num_ranks: int
    since: float
    phase: Phase = "placement"
    answered: set[int] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)

    def answer(self, rank: int, now: float) -> bool:
        """Record that a rank has finished the present phase. Returns whether the phase is over."""
        self.answered.add(rank)
        if len(self.answered) < (1 if self.phase == "address" else self.num_ranks):
            return False
        self.seconds[self.phase] = now - self.since
        self.since, self.answered = now, set()
        self.phase = PHASES[min(PHASES.index(self.phase) + 1, len(PHASES) - 1)]
        return True

    def summary(self) -> str:
        """The durations of the finished phases."""
        return ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())

    def delay(self, now: float) -> str:
        """What the start is waiting for, and what to check."""
        expected = range(1 if self.phase == "address" else self.num_ranks)
        missing = ", ".join(str(rank) for rank in expected if rank not in self.answered)
        return (
            f"{_title(self.phase)} has taken {now - self.since:.0f} s without an answer from rank {missing}; "
            f"check {CHECKS[self.phase]}"
        )


@contextlib.contextmanager
def phase_of(phase: Phase, worker: int, rank: int) -> Iterator[None]:
    """Name the phase, its duration and what to check in what the block raises; users' own errors stay as they are.

    Raises:
        PeerError: Another rank was lost or did not come.
        WorkerError: The block raised anything else.
    """
    started = time.monotonic()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = str(error) if isinstance(error, WorkerError) else f"{type(error).__name__}: {error}"
        kind = PeerError if isinstance(error, PeerError) else WorkerError
        raise kind(
            f"worker {worker}, rank {rank}: {_title(phase)} failed after {time.monotonic() - started:.1f} s: {what}; "
            f"check {CHECKS[phase]}"
        ) from error


def _title(phase: Phase) -> str:
    return f"start-up phase {PHASES.index(phase) + 1} of {len(PHASES)} ({phase})"
