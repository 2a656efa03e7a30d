"""Phases of inner gradient steps, checked against the network's parameter groups."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from distmeta.config import Phase
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
        objective: Objective of a phase that names none.
        where: Field of the configuration that it is, for messages.
        frozen: Parameters that no phase moves.
        learned: Whether rates are meta-parameters.

    Raises:
        UserError: An unknown parameter group, head or objective is named.
    """
    rates = {name: phase.lr for group in phase.groups for name in group_names(groups, group, f"{where}.groups")}
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
