"""Phases of inner gradient steps, checked against the network's parameter groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distmeta.config import Phase
from distmeta.core import seeding
from distmeta.core.errors import UserError, nearest
from distmeta.methods.objectives import Objective, find_objective

RATE_PREFIX = "inner_lr."


class ReadyPhase(NamedTuple):
    """A phase of the configuration, ready to run.

    Attributes:
        config: Its settings.
        rates: Inner rates of the parameters that it moves, by name.
        objective: What it minimises.
        learned_rates: Names of the meta-parameters that hold its rates, by name; empty if they are not learned.
    """

    config: Phase
    rates: dict[str, float]
    objective: Objective
    learned_rates: dict[str, str]


def ready_phase(
    phase: Phase,
    index: int,
    groups: dict[str, tuple[str, ...]],
    blocks: Sequence[str],
    objective: str,
    where: str,
    frozen: Collection[str],
    *,
    learned: bool,
) -> ReadyPhase:
    """A phase by the network's parameter groups.

    Args:
        phase: Its settings.
        index: Its place among the phases.
        groups: The network's parameter groups.
        blocks: Those that make up the body, from the inputs to the features.
        objective: Objective of a phase that names none.
        where: Field of the configuration that it is, for messages.
        frozen: Parameters that no phase moves.
        learned: Whether rates are meta-parameters.

    Raises:
        UserError: An unknown parameter group, head or objective is named.
    """
    rates = {name: phase.lr for group in phase.groups for name in group_names(groups, group, f"{where}.groups")}
    for depth, block in enumerate(reversed(blocks), start=1):
        rates |= {name: phase.lr * phase.block_decay**depth for name in groups[block] if name in rates}
    for group, rate in phase.rates.items():
        rates |= {name: rate for name in group_names(groups, group, f"{where}.rates") if name in rates}
    group_names(groups, phase.head, f"{where}.head")
    prefix = RATE_PREFIX if index == 0 else f"{RATE_PREFIX}{index}."
    ordered = {name: rates[name] for name in groups["all"] if name in rates and name not in frozen}
    learned_rates = {name: prefix + name for name in ordered} if learned else {}
    return ReadyPhase(phase, ordered, find_objective(phase.objective or objective, f"{where}.objective"), learned_rates)


def group_names(groups: dict[str, tuple[str, ...]], name: str, where: str) -> tuple[str, ...]:
    """Parameters of a group; UserError at `where` if the network has none of this name."""
    if name not in groups:
        raise UserError(f"unknown parameter group '{name}'", where=where, allowed=nearest(name, groups))
    return groups[name]


def batch_rows(available: int, batch: int, k: int) -> tuple[int, ...] | None:
    """Rows of mini-batch `k`: consecutive rows, modulo their number; None for all rows."""
    return None if batch >= available else tuple((k * batch + i) % available for i in range(batch))


def rows_of_step(phase: Phase, index: int, available: int, step: int) -> tuple[int, ...] | None:
    """Rows that a step of the phase at `index` uses, of so many that are available; None for all rows.

    With `shuffle`, mini-batches are consecutive rows of one random order of all rows after another, so that all are
    used equally often. The orders are the same for all tasks, whose support sets come in a random order of their own.
    """
    if phase.batch is None or phase.batch >= available:
        return None
    if not phase.shuffle:
        return batch_rows(available, phase.batch, step)
    return tuple(_shuffled_rows(index, available, phase.batch, phase.steps)[step].tolist())


@lru_cache(maxsize=16)
def _shuffled_rows(index: int, available: int, batch: int, steps: int) -> npt.NDArray[np.int64]:
    """Rows of each step: [steps, batch]."""
    epochs = -(-steps * batch // available)
    seeds = [seeding.mix("epoch", index, epoch) for epoch in range(epochs)]
    orders = seeding.choice(seeds, "order", available, available)
    return orders.ravel()[: steps * batch].reshape(steps, batch)


def steps_of_epoch(phase: Phase, available: int) -> int:
    """Steps that go through all of so many rows once."""
    return 1 if phase.batch is None else -(-available // phase.batch)
