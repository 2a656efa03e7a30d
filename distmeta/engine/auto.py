"""`strategy = auto`: time the candidates on a shard of the run, and take the fastest.

None wins everywhere: on a CPU, vmap makes a small network twenty times faster and a convolutional one with many images
slower than a loop. So the eager candidates are timed first. Native code is tried for the better of them, and for the
other one too where the two are close, if the run is long enough to be worth the compiling. A candidate that fails is
left out, and the reason is kept. The choice is remembered for this machine, this method and these shapes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from distmeta.config import EngineConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Episode, Params
from distmeta.engine.engine import Engine, memory_of
from distmeta.engine.graphs.cache import cache_folder, environment
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner

_LOG = logging.getLogger(__name__)
CLOSE = 4.0
"""Eager candidates within this factor of each other are both worth compiling."""
COMPILE_S = 15.0
"""What compiling is taken to cost before it has been tried."""
WORTH = 20.0
"""A run must be this many times as long as compiling takes."""
_MEASURE_S = 0.5
_MAX_ROUNDS = 5


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        strategy, chunk, memory: See `EngineConfig`.
        seconds: Seconds per task of every candidate that was timed.
        failures: Why others were left out.
        took_s: Seconds that the choice took.
        compiled: Native code was among the candidates.
        remembered: It was known from an earlier run.
    """

    strategy: str
    chunk: int | None
    memory: str
    seconds: dict[str, float]
    failures: dict[str, str]
    took_s: float
    compiled: bool = False
    remembered: bool = False

    def apply(self, config: EngineConfig) -> EngineConfig:
        """The configuration with the choice in it."""
        chosen = {"strategy": self.strategy, "chunk": self.chunk, "memory": self.memory}
        return EngineConfig.model_validate({**config.model_dump(), **chosen})

    @property
    def reason(self) -> str:
        """One line for people."""
        times = ", ".join(f"{name} {1000 * value:.3g}" for name, value in sorted(self.seconds.items(), key=_second))
        left_out = "".join(f"; {name} left out: {why}" for name, why in self.failures.items())
        source = "as before on this machine" if self.remembered else f"chosen in {self.took_s:.1f} s"
        return f"engine: {self.strategy}, {source} (milliseconds a task: {times}){left_out}"


def choose(
    learner: Learner,
    estimator: Estimator,
    config: EngineConfig,
    lanes: int,
    meta: Params,
    episodes: Episode,
    *,
    method: str = "",
    tasks_ahead: float = math.inf,
    seconds_ahead: float = math.inf,
) -> Choice:
    """Time the candidates on a shard.

    Args:
        learner: How a task is adapted.
        estimator: How the outer signal is made of it.
        config: What is not to be chosen; a `chunk` that is set is kept.
        lanes: Chunks in flight.
        meta: Meta-parameters.
        episodes: T tasks.
        method: Describes learner, estimator and network; choices are remembered under it. Empty for no remembering.
        tasks_ahead: Tasks that this process will compute: short runs are not worth compiling for.
        seconds_ahead: The time that it has for them.

    Raises:
        UserError: Every candidate fails.
    """
    started, key = time.perf_counter(), _key(method, config, lanes, meta, episodes)
    known = _recall(key) if method else None
    trial = _Trial(lambda tried: Engine(learner, estimator, tried, lanes), config, lanes, meta, episodes)
    if known is not None:
        trial.seconds, trial.failures = dict(known.seconds), dict(known.failures)
    else:
        trial.run("loop")
        trial.run("vmap")
    best = min(trial.seconds.values(), default=math.inf)
    is_long = min(best * tasks_ahead, seconds_ahead) >= WORTH * COMPILE_S
    if known is not None and (known.compiled or not is_long):
        return known
    for strategy in _worth_compiling(trial.seconds, meta) if is_long else ():
        trial.run(strategy)
    if not trial.seconds:
        reasons = "; ".join(f"{name}: {why}" for name, why in trial.failures.items())
        raise UserError(f"no way of computing a shard works ({reasons})", where="engine.strategy")
    strategy = min(trial.seconds, key=trial.seconds.__getitem__)
    chunk, memory = trial.chunk(strategy), memory_of(config, learner)
    took_s = time.perf_counter() - started
    choice = Choice(strategy, chunk, memory, trial.seconds, trial.failures, took_s, compiled=is_long)
    if method:
        _remember(key, choice)
    return choice


def _worth_compiling(seconds: dict[str, float], meta: Params) -> list[str]:
    """Native candidates for the better of the eager ones, and for the other where the two are close."""
    ratio = seconds.get("loop", math.inf) / seconds.get("vmap", math.inf)
    # Convolutions with weights of their own for every task are slow to compile and not the fastest on a CPU.
    has_filters = any(tensor.dim() == 4 for tensor in meta.values())
    found = ["compiled"] if not ratio > CLOSE else []
    return [*found, "compiled_vmap"] if ratio > CLOSE or (ratio > 1 / CLOSE and not has_filters) else found


class _Trial:
    """Candidates on one shard."""

    def __init__(
        self, make: Callable[[EngineConfig], Engine], config: EngineConfig, lanes: int, meta: Params, episodes: Episode
    ) -> None:
        self._make = make
        self._config, self._lanes, self._meta, self._episodes = config, lanes, meta, episodes
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, str] = {}

    def chunk(self, strategy: str) -> int | None:
        """Enough chunks for every lane, unless the configuration says how large they are."""
        if strategy in ("loop", "compiled") or self._config.chunk is not None:
            return self._config.chunk
        return math.ceil(self._episodes.num_tasks / self._lanes) if self._lanes > 1 else None

    def run(self, strategy: str) -> None:
        """Time a candidate; keep why if it fails."""
        values = {**self._config.model_dump(), "strategy": strategy, "chunk": self.chunk(strategy)}
        try:
            engine = self._make(EngineConfig.model_validate(values))
            engine.update(self._meta, self._episodes)
            self.seconds[strategy] = self._time(engine) / self._episodes.num_tasks
        except Exception as error:  # whatever a candidate raises, another may work
            self.failures[strategy] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            _LOG.debug("candidate %s failed", strategy, exc_info=True)

    def _time(self, engine: Engine) -> float:
        """Seconds of a shard: the least of a few runs, which is the one that nothing else disturbed."""
        times: list[float] = []
        while len(times) < _MAX_ROUNDS and (not times or sum(times) < _MEASURE_S):
            began = time.perf_counter()
            engine.update(self._meta, self._episodes)
            times.append(time.perf_counter() - began)
        return min(times)


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _key(method: str, config: EngineConfig, lanes: int, meta: Params, episodes: Episode) -> str:
    shapes = [[str(tensor.dtype), *tensor.shape] for tensor in (*meta.values(), *episodes.tensors())]
    device = str(next(iter(meta.values())).device)
    text = json.dumps([method, config.model_dump(mode="json"), lanes, shapes, device, environment()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _recall(key: str) -> Choice | None:
    path = cache_folder() / f"choice-{key}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Choice(**{**found, "remembered": True, "took_s": 0.0})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        _LOG.warning("%s cannot be read; choosing anew", path)
        return None


def _remember(key: str, choice: Choice) -> None:
    path = cache_folder() / f"choice-{key}.json"
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(asdict(choice)), encoding="utf-8")
    os.replace(scratch, path)
