"""`engine.strategy = measured`: time candidate strategies on a shard of the run, and choose the fastest.

The result depends on the machine, its load, the number of threads and the length of the run, and with it the last bits
of the run's meta-parameters: the choice is kept in its checkpoints.

No strategy is the fastest everywhere: on a CPU, vmap is twenty times as fast as a loop for a small network, and slower
for a convolutional network with many images. The eager candidates are timed first. If the run is long enough to repay
compiling, compiled ones are timed too:

    CUDA    both
    CPU     the counterpart of the faster eager one, and both where the two are close; but with filters, which take
            long to compile with weights of their own for every task and are not the fastest, `compiled` alone there

What network or tasks do not support (`Learner.limits`) is not tried: under a `vmap` that the network does not support,
gradients may be wrong without an error. A candidate that raises is left out, with the reason. The choice is stored for
this machine, method and shapes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from distmeta.config import EngineConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.engine.auto import Choice
from distmeta.engine.engine import COMPILED, Engine, possible_strategies
from distmeta.engine.graphs.cache import cache_folder, environment
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.methods.terms import OuterTerm

_LOG = logging.getLogger(__name__)
CLOSE_FACTOR = 4.0
"""Both eager candidates have their counterparts compiled if their times are within this factor of each other."""
ESTIMATED_COMPILE_S = 15.0
MIN_RUN_PER_COMPILE = 20.0
"""Compiled candidates are timed if the run is expected to take this many times `ESTIMATED_COMPILE_S`."""
_MIN_TIMING_S = 0.5
_MAX_REPEATS = 5


def choose_by_time(
    learner: Learner,
    estimator: Estimator,
    terms: Sequence[OuterTerm],
    config: EngineConfig,
    lanes: int,
    meta: Params,
    episodes: Episode,
    *,
    method: str = "",
    tasks_ahead: float = math.inf,
    seconds_ahead: float = math.inf,
    device: str = "cpu",
) -> Choice:
    """Time the candidates on a shard and choose the fastest.

    Args:
        learner: How a task is adapted.
        estimator: How the outer signal is computed from adapted tasks.
        terms: The outer loss.
        config: The fields that are not chosen; a `chunk` that is set is kept.
        lanes: Number of threads that compute chunks.
        meta: Meta-parameters.
        episodes: T tasks.
        method: Identifies learner, estimator and network; the key under which the choice is stored. Empty: not stored.
        tasks_ahead: Tasks of the whole run, which decide whether compiling pays.
        seconds_ahead: Time limit of the run in seconds.
        device: Where shards are computed: `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: Every candidate raises.
    """
    started, possible = time.perf_counter(), possible_strategies(learner.limits)
    key = _key([method, possible], config, lanes, meta, episodes)
    stored = _load(key) if method else None
    candidates = _Candidates(
        lambda tried: Engine(learner, estimator, terms, tried, lanes), config, lanes, meta, episodes
    )
    if stored is not None:
        candidates.seconds, candidates.failures = dict(stored.seconds), dict(stored.failures)
    else:
        for strategy in ("loop", "vmap"):
            if strategy in possible:
                candidates.run(strategy)
    best = min(candidates.seconds.values(), default=math.inf)
    is_long = min(best * tasks_ahead, seconds_ahead) >= MIN_RUN_PER_COMPILE * ESTIMATED_COMPILE_S
    if stored is not None and (stored.compiled or not is_long):
        return stored
    worth = _worth_compiling(candidates.seconds, meta, device) if is_long else []
    for strategy in worth:
        if strategy in possible:
            candidates.run(strategy)
    if not candidates.seconds:
        reasons = "; ".join(f"{name}: {message}" for name, message in candidates.failures.items())
        raise UserError(f"every strategy fails ({reasons})", where="engine.strategy")
    strategy = min(candidates.seconds, key=candidates.seconds.__getitem__)
    chunk, memory = candidates.chunk(strategy), config.memory
    took_s = time.perf_counter() - started
    choice = Choice(strategy, chunk, memory, candidates.seconds, candidates.failures, took_s, compiled=is_long)
    if method:
        _store(key, choice)
    return choice


def _worth_compiling(seconds: dict[str, float], meta: Params, device: str) -> list[str]:
    """On a CPU, the compiled counterparts of the faster eager candidate, or of both where their times are close.

    Elsewhere both: there, eager times say how long it takes to launch operations, not how long these take.
    """
    if device != "cpu":
        return list(COMPILED)
    ratio = seconds.get("loop", math.inf) / seconds.get("vmap", math.inf)
    # Convolutions with weights of their own for every task are slow to compile and not the fastest on a CPU.
    has_filters = any(tensor.dim() == 4 for tensor in meta.values())
    strategies = ["compiled"] if not ratio > CLOSE_FACTOR else []
    if ratio > CLOSE_FACTOR or (ratio > 1 / CLOSE_FACTOR and not has_filters):
        strategies.append("compiled_vmap")
    return strategies


class _Candidates:
    """Times strategies on one shard.

    Attributes:
        seconds: Seconds per task by strategy.
        failures: Error message by strategy.
    """

    def __init__(
        self, make: Callable[[EngineConfig], Engine], config: EngineConfig, lanes: int, meta: Params, episodes: Episode
    ) -> None:
        self._make = make
        self._config, self._lanes, self._meta, self._episodes = config, lanes, meta, episodes
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, str] = {}

    def chunk(self, strategy: str) -> int | None:
        """One chunk for every lane, unless the configuration sets the chunk size."""
        if strategy in ("loop", "compiled") or self._config.chunk is not None:
            return self._config.chunk
        return math.ceil(self._episodes.num_tasks / self._lanes) if self._lanes > 1 else None

    def run(self, strategy: str) -> None:
        """Time a strategy; record the error if it fails."""
        values = {**self._config.model_dump(), "strategy": strategy, "chunk": self.chunk(strategy)}
        try:
            engine = self._make(EngineConfig.model_validate(values))
            engine.update(self._meta, self._episodes)
            self.seconds[strategy] = self._time(engine) / self._episodes.num_tasks
        except Exception as error:  # whatever a candidate raises, another may work
            self.failures[strategy] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            _LOG.debug("candidate %s failed", strategy, exc_info=True)

    def _time(self, engine: Engine) -> float:
        """Seconds per shard: the minimum of a few repeats, the one that other processes disturbed least."""
        times: list[float] = []
        while len(times) < _MAX_REPEATS and (not times or sum(times) < _MIN_TIMING_S):
            started = time.perf_counter()
            engine.update(self._meta, self._episodes)
            times.append(time.perf_counter() - started)
        return min(times)


def _key(method: Any, config: EngineConfig, lanes: int, meta: Params, episodes: Episode) -> str:
    shapes = [[str(tensor.dtype), *tensor.shape] for tensor in (*meta.values(), *episodes.tensors())]
    device = str(next(iter(meta.values())).device)
    text = json.dumps([method, config.model_dump(mode="json"), lanes, shapes, device, environment()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _load(key: str) -> Choice | None:
    path = cache_folder() / f"choice-{key}.json"
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Choice(**{**fields, "remembered": True, "took_s": 0.0})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        _LOG.warning("%s cannot be read; timing the strategies again", path)
        return None


def _store(key: str, choice: Choice) -> None:
    path = cache_folder() / f"choice-{key}.json"
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(asdict(choice)), encoding="utf-8")
    os.replace(scratch, path)
