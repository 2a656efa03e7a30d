"""Who takes part in a benchmark: the peers, and the engine's strategies.

A contender of the engine is named by its strategy, with a slash and the way it keeps memory where that is asked for:
`vmap`, `compiled`, `loop/flat`. `auto` is the engine's own choice for the problem.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import ValidationError

from benchmarks.engine.peers import PEERS, Run
from benchmarks.engine.work import Work
from distmeta.config import EngineConfig
from distmeta.config.base import to_user_error
from distmeta.core.errors import UserError, nearest
from distmeta.engine.measured import choose_by_time
from distmeta.engine.engine import Engine

STRATEGIES = ("loop", "vmap", "compiled", "compiled_vmap")
MEMORIES = ("unrolled", "flat")
AUTO = "auto"
_LONGEST_REASON = 200
ENGINE_CONTENDERS = (*PEERS, *STRATEGIES, AUTO)
MEMORY_CONTENDERS = (*PEERS, "loop/unrolled", "loop/flat", "compiled/unrolled", "compiled/flat")


@dataclass(frozen=True)
class Made:
    """A contender ready to run.

    Attributes:
        run: Computes the outer signal, summed over the tasks.
        choice: What `auto` chose, and in how many seconds; empty for the others.
    """

    run: Run
    choice: dict[str, Any]


def check_contenders(names: list[str], where: str) -> list[str]:
    """The names as given.

    Raises:
        UserError: One is unknown.
    """
    known = [*PEERS, *STRATEGIES, AUTO, *(f"{strategy}/{memory}" for strategy in STRATEGIES for memory in MEMORIES)]
    for name in names:
        if name not in known:
            raise UserError(f"unknown contender '{name}'", where=where, allowed=nearest(name, known))
    return names


def is_compiled(name: str) -> bool:
    """True where the first call compiles."""
    return name.startswith("compiled")


def eager_twin(name: str) -> str:
    """A contender that computes nearly the same without compiling, to load what all of them load."""
    return "loop" if is_compiled(name) or name == AUTO else name


def reason_of(error: Exception) -> str:
    """One line about why a contender cannot take part."""
    known = to_user_error(error) if isinstance(error, ValidationError) else error
    lines = [line.strip() for line in str(known).splitlines() if line.strip()]
    kind = "" if lines and isinstance(known, UserError) else f"{type(error).__name__}: "
    shown = f"{kind}{lines[0] if lines else 'no message'}"
    return shown if len(shown) <= _LONGEST_REASON else f"{shown[:_LONGEST_REASON]}..."


def make_contender(name: str, work: Work, threads: int, lanes: int) -> Made:
    """Make a contender for a problem.

    Args:
        name: See the module.
        work: The problem.
        threads: Intra-op threads of a peer; the engine's own lanes set theirs.
        lanes: Tasks or chunks in flight in the engine.

    Raises:
        UserError: The engine knows no such strategy, or refuses the pair.
    """
    if name in PEERS:
        return Made(_with_threads(PEERS[name](work), threads), {})
    config, choice = _auto(work, lanes) if name == AUTO else (_engine_config(work, name, lanes), {})
    engine = Engine(work.learner, work.estimator, config, lanes=lanes)
    return Made(_with_threads(lambda: engine.update(work.meta, work.episodes).grad, threads), choice)


def _engine_config(work: Work, name: str, lanes: int) -> EngineConfig:
    """The engine's configuration of a contender: where tasks go together, a chunk for each lane."""
    strategy, _, memory = name.partition("/")
    values = work.config.engine.model_dump() | {"strategy": strategy} | ({"memory": memory} if memory else {})
    if strategy.endswith("vmap"):
        values["chunk"] = math.ceil(work.num_tasks / lanes)
    return EngineConfig.model_validate(values)


def _auto(work: Work, lanes: int) -> tuple[EngineConfig, dict[str, Any]]:
    """Let the engine choose: the configuration it chose, and what it says of it."""
    config = _engine_config(work, AUTO, lanes)
    choice = choose_by_time(work.learner, work.estimator, config, lanes, work.meta, work.episodes)
    return choice.apply(config), {**asdict(choice), "reason": choice.reason}


def _with_threads(run: Run, threads: int) -> Run:
    def run_with_threads() -> Any:
        torch.set_num_threads(threads)
        return run()

    return run_with_threads


def display(name: str) -> str:
    """A contender's name in tables."""
    return name.replace("_", " ") if name in PEERS else f"distmeta: {name}"


def thread_counts(name: str, threads: int) -> list[int]:
    """The intra-op threads that a contender is tried with: peers are the better of one and all."""
    return sorted({1, threads}) if name in PEERS else [threads]
