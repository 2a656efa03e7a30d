"""The contenders of a benchmark: the peers (other libraries and a plain loop), and the engine's strategies.

A contender of the engine is named by its strategy, optionally with its memory mode after a slash: `vmap`, `compiled`,
`loop/flat`. `auto` and `measured` are the engine's own choices for the problem, by shapes and by time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import torch
from pydantic import ValidationError

from benchmarks.engine.common.peers import PEERS, Run
from benchmarks.engine.common.workload import Workload
from distmeta.config import EngineConfig
from distmeta.config.base import to_user_error
from distmeta.core.errors import UserError, nearest
from distmeta.core.types import Params
from distmeta.engine.auto import choose_by_shapes
from distmeta.engine.lanes import lanes_for
from distmeta.engine.measured import choose_by_time

STRATEGIES = ("loop", "vmap", "compiled", "compiled_vmap")
MEMORIES = ("unrolled", "flat")
AUTO, MEASURED = "auto", "measured"
ENGINE_CONTENDERS = (*PEERS, *STRATEGIES, AUTO, MEASURED)
MEMORY_CONTENDERS = (*PEERS, "loop/unrolled", "loop/flat", "compiled/unrolled", "compiled/flat")
_ALL = (*ENGINE_CONTENDERS, *(f"{strategy}/{memory}" for strategy in STRATEGIES for memory in MEMORIES))
_MAX_REASON = 200


class Status(StrEnum):
    """Why a contender has numbers or not. One that disagrees with the reference is not timed."""

    OK = "ok"
    DISAGREES = "disagrees"
    FAILED = "failed"
    LEFT_OUT = "left out"
    TOO_LONG = "too long"
    TOO_LARGE = "too large"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Contender:
    """Computes outer gradients.

    Attributes:
        run: The gradient, summed over the tasks.
        of_task: The gradient of one task, by its number.
        choice: The choice of `auto` or `measured`.
    """

    run: Run
    of_task: Callable[[int], Params]
    choice: dict[str, Any] = field(default_factory=dict)


def check_contenders(names: list[str], where: str) -> tuple[str, ...]:
    """The names as given.

    Raises:
        UserError: One is unknown; `where` is the option that names it.
    """
    for name in names:
        if name not in _ALL:
            raise UserError(f"unknown contender '{name}'", where=where, allowed=nearest(name, _ALL))
    return tuple(names)


def is_compiled(name: str) -> bool:
    return name.startswith("compiled")


def eager_twin(name: str) -> str:
    """A contender that computes nearly the same without compiling, to warm up what both load."""
    return "loop" if is_compiled(name) or name in (AUTO, MEASURED) else name


def display(name: str) -> str:
    return name.replace("_", " ") if name in PEERS else f"distmeta: {name}"


def thread_counts(name: str, threads: int) -> list[int]:
    """The intra-op threads to try a contender with: the better of one and all counts for a peer."""
    return sorted({1, threads}) if name in PEERS else [threads]


def reason_of(error: Exception) -> str:
    """One line about why a contender failed."""
    if isinstance(error, ValidationError):
        error = to_user_error(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = "" if lines and isinstance(error, UserError) else f"{type(error).__name__}: "
    reason = f"{kind}{lines[0] if lines else 'no message'}"
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."


def make_contender(name: str, workload: Workload, threads: int, lanes: int) -> Contender:
    """Make a contender with intra-op threads (of a peer; the engine's lanes set their own) and lanes (of the engine).

    Raises:
        UserError: The engine has no such strategy, or refuses it for this method.
    """
    if name in PEERS:
        run = _with_threads(PEERS[name](workload), threads)
        return Contender(run, lambda task: PEERS[name](workload.only(task))())
    lanes = lanes_for(workload.config.runtime.device, lanes)
    config = _engine_config(workload, name, lanes)
    choice: dict[str, Any] = {}
    if name in (AUTO, MEASURED):
        config, choice = _choose(workload, name, config, lanes)
    engine = workload.engine(config, lanes)

    def of_task(task: int) -> Params:
        if config.strategy != "compiled_vmap":
            return workload.only(task).gradient(engine)
        summed = workload.copies(task).gradient(engine)
        return {each: tensor / workload.num_tasks for each, tensor in summed.items()}

    run = _with_threads(lambda: workload.gradient(engine), threads)
    return Contender(run, of_task, choice)


def _engine_config(workload: Workload, name: str, lanes: int) -> EngineConfig:
    """The engine's configuration of a contender: strategies with vmap get a chunk for each lane."""
    strategy, _, memory = name.partition("/")
    values = workload.config.engine.model_dump() | {"strategy": strategy} | ({"memory": memory} if memory else {})
    if strategy.endswith("vmap"):
        values["chunk"] = math.ceil(workload.num_tasks / lanes)
    return EngineConfig.model_validate(values)


def _choose(workload: Workload, name: str, config: EngineConfig, lanes: int) -> tuple[EngineConfig, dict[str, Any]]:
    """Let the engine choose. Returns the configuration and the record of the choice."""
    meta, episodes, device = workload.meta, workload.episodes, workload.config.runtime.device
    if name == AUTO:
        choice = choose_by_shapes(config, meta, episodes, device=device)
    else:
        parts = (workload.learner, workload.estimator, workload.terms)
        choice = choose_by_time(*parts, config, lanes, meta, episodes, device=device)
    return choice.apply(config), {**asdict(choice), "reason": choice.reason}


def _with_threads(run: Run, threads: int) -> Run:
    def run_with_threads() -> Params:
        torch.set_num_threads(threads)
        return run()

    return run_with_threads
