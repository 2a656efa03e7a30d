"""The interface of procedures, which make the outer steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from distmeta.core.types import Work
from distmeta.runtime.executor import Result
from distmeta.server import StepRecord, Weights
from distmeta.server.outer import State


@dataclass(frozen=True)
class Step:
    """Result of an outer step.

    Attributes:
        record: The server's record.
        results: Results of the accepted shards, without their updates.
        tasks: Number of tasks in them.
    """

    record: StepRecord
    results: Sequence[Result]
    tasks: int


class Procedure(Protocol):
    """Makes the outer steps of a run.

    Attributes:
        server: Holds the meta-parameters.
    """

    server: Weights

    def step(self, work: Work) -> Step:
        """Make the next step; workers compute `work`.

        Raises:
            DistmetaError: It cannot be made.
        """

    def pause(self) -> None:
        """Let go of the workers, which are needed for other work; by default none computes between two steps."""
        return

    def state_dict(self) -> State:
        """A copy of everything that the following steps depend on, the server's state included."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state.

        Raises:
            UserError: It does not fit.
        """
