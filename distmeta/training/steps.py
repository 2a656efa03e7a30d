"""How an outer step is made of many shards.

Synchronous     snapshot -> all shards of the step -> sum in the order of shards -> step; the same bits on any workers
Asynchronous    each worker always has a shard, computed from the newest snapshot at its assignment; a step is made of
                the updates that have arrived since the last one, weighted by their age (`outer.staleness`)
TrustRegion     every step waits for several rounds of requests: the gradient, products with the Fisher matrix, trials
                of step sizes (`outer.trust_region`); the same bits on any workers
Epochs          several steps on the same trajectories (`outer.epochs`); the same bits on any workers
Zero            the ranks of the one worker have the meta-parameters and make the step by themselves (`outer.zero`); the
                same bits on any number of ranks
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor
from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.types import Params, Shard, Snapshot, Work
from distmeta.runtime.executor import Executor, Incident, Result
from distmeta.runtime.policy.decisions import Drop, Retry, on_nonfinite
from distmeta.server import AsynchronousServer, ParameterServer, Verdict
from distmeta.server.outer import State
from distmeta.tasks.base import TaskSource
from distmeta.training.epochs import Epochs
from distmeta.training.procedure import Procedure, Step
from distmeta.training.rounds import check_trajectories
from distmeta.training.trust_region import TrustRegion, check_trust_region
from distmeta.training.zero import GroupWeights, Zero, check_zero

_CARRY = "carry/"
"""Prefix of the estimator's state in a state."""
_RECENT_STEPS = 3


def build_procedure(
    config: RunConfig, params: Params, source: TaskSource, executor: Executor, buffers: Params | None = None
) -> Procedure:
    """Make the procedure that `config.outer` asks for, with its server.

    Args:
        config: The run.
        params: The first meta-parameters.
        source: Where the tasks come from.
        executor: Who computes them.
        buffers: The first running statistics, of networks that have them.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """
    return PROCEDURES[config.outer.procedure](config, params, buffers or {}, source, executor)


class _Shards:
    """The shards of training steps; those of the last few are kept: they are cut a step before workers prepare them."""

    def __init__(self, config: RunConfig, source: TaskSource) -> None:
        self._config, self._source = config, source
        self._recent: dict[int, tuple[Shard, ...]] = {}

    def of_step(self, step: int) -> tuple[Shard, ...]:
        if step not in self._recent:
            config = self._config
            count, size, lasts = config.train.tasks_per_step, config.runtime.shard_size, config.algorithm.windows
            shards = self._source.shards("train", step, count, size, lasts)
            self._recent = {**dict(list(self._recent.items())[-_RECENT_STEPS:]), step: shards}
        return self._recent[step]


class Synchronous(Procedure):
    """Every step waits for all its shards: the result depends neither on who computes what, nor on when."""

    def __init__(self, config: RunConfig, source: TaskSource, server: ParameterServer, executor: Executor) -> None:
        self.server: ParameterServer = server
        self._config, self._shards, self._executor = config, _Shards(config, source), executor
        self._carries: dict[int, Params] = {}

    @override
    def step(self, work: Work) -> Step:
        step = self.server.version
        shards = [self._with_carry(shard) for shard in self._shards.of_step(step)]
        upcoming = self._shards.of_step(step + 1) if step + 1 < self._config.train.steps else ()
        if step + 2 < self._config.train.steps:
            self._executor.meanwhile = partial(self._shards.of_step, step + 2)
        carries: dict[int, Params] = {}
        results: list[Result] = []
        nonfinite_on: dict[int, list[int]] = {}  # workers by shard
        for result in self._executor.map(work, self.server.pull(), shards, upcoming):
            verdict = self.server.push(result.value)
            if verdict is Verdict.NONFINITE:
                workers = nonfinite_on.setdefault(result.shard, [])
                workers.append(result.worker)
                self._handle_nonfinite(step, result, workers)
            elif verdict is not Verdict.ACCEPTED:
                raise DistmetaError(f"step {step}: the update of shard {result.shard} is {verdict.value}")
            else:
                carries |= result.value.carries
                results.append(replace(result, value=None))  # frees the update as soon as it is added
        record = self.server.step(len(shards))
        self._carries |= carries  # a dropped shard keeps its own
        return Step(record, results, self._config.train.tasks_per_step)

    @override
    def state_dict(self) -> State:
        """The server's state, and the carry of each shard: `carry/<shard>/<name>`."""
        state = self.server.state_dict()
        for shard, carry in self._carries.items():
            state |= {f"{_CARRY}{shard}/{name}": tensor.clone() for name, tensor in carry.items()}
        return state

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.server.load_state_dict({name: value for name, value in state.items() if not name.startswith(_CARRY)})
        self._carries = _carries_of(state)

    def _with_carry(self, shard: Shard) -> Shard:
        return replace(shard, carry=self._carries[shard.index]) if shard.index in self._carries else shard

    def _handle_nonfinite(self, step: int, result: Result, workers: Sequence[int]) -> None:
        """Recompute a nonfinite update elsewhere, drop its shard, or end the run."""
        policy = self._config.outer.nonfinite
        decision = on_nonfinite(result.shard, workers, self._executor.num_workers, policy)
        outcome = {Retry: "retry", Drop: "dropped"}.get(type(decision), "abort")
        self._executor.record(_nonfinite_incident(step, result, outcome))
        if isinstance(decision, Retry):
            self._executor.recompute(result)
        elif isinstance(decision, Drop):
            self._executor.counts["dropped"] += 1
            self.server.drop(result.shard)
        else:
            raise DistmetaError(f"step {step}: {decision.reason}")


class Asynchronous(Procedure):
    """Workers never wait (see `distmeta.server.asynchronous`): the one mode whose result depends on timing.

    Tasks are those of the synchronous steps, in the same order, whatever the version they are computed at.
    """

    def __init__(self, config: RunConfig, source: TaskSource, server: AsynchronousServer, executor: Executor) -> None:
        self.server: AsynchronousServer = server
        self._config, self._shards, self._executor = config, _Shards(config, source), executor
        self._first_step = 0
        self._num_assigned = 0
        self._running: dict[int, Shard] = {}
        self._interrupted: list[Shard] = []
        self._snapshot: Snapshot | None = None
        self._results: Iterator[Result] | None = None

    @override
    def step(self, work: Work) -> Step:
        per_step = self._per_step
        if self._results is None:
            # Shards of a stream that was left, to evaluate, are computed again; those of earlier ones may still wait.
            self._interrupted += self._running.values()
            self._running.clear()
            self._results = self._executor.stream(work, self._feed)
        results: list[Result] = []
        num_tasks = 0
        for result in self._results:
            if result.value.carries:
                raise UserError(
                    "the estimator keeps a state for each shard, but asynchronous shards have no successors",
                    where="outer.staleness",
                    allowed="null, or an estimator without a state",
                )
            tasks_of_shard = len(self._running.pop(result.shard).specs)
            verdict = self.server.push(result.value)
            if verdict is Verdict.ACCEPTED:
                results.append(replace(result, value=None))
                num_tasks += tasks_of_shard
            elif verdict is Verdict.STALE:
                self._executor.counts["stale"] += 1
            else:
                self._handle_refused(result, verdict)
            if self.server.ready(per_step):
                break
        return Step(self.server.step(per_step), results, num_tasks)

    @override
    def pause(self) -> None:
        self._results = None

    @override
    def state_dict(self) -> State:
        return self.server.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.server.load_state_dict(state)

    def _feed(self) -> tuple[Snapshot, Shard] | None:
        if self._snapshot is None or self._snapshot.version != self.server.version:
            self._snapshot = self.server.pull()
        shard = self._interrupted.pop(0) if self._interrupted else self._next()
        self._running[shard.index] = shard
        return self._snapshot, shard

    def _next(self) -> Shard:
        if not self._num_assigned:  # now, because a resumed run loads the server's state after this has been made
            self._first_step = self.server.version
        step, place = divmod(self._num_assigned, self._per_step)
        shard = Shard(self._num_assigned, self._shards.of_step(self._first_step + step)[place].specs)
        self._num_assigned += 1
        return shard

    @property
    def _per_step(self) -> int:
        return -(-self._config.train.tasks_per_step // self._config.runtime.shard_size)

    def _handle_refused(self, result: Result, verdict: Verdict) -> None:
        step = self.server.version
        if verdict is not Verdict.NONFINITE:
            raise DistmetaError(f"step {step}: the update of shard {result.shard} is {verdict.value}")
        decision = on_nonfinite(result.shard, [result.worker], 1, self._config.outer.nonfinite)
        assert not isinstance(decision, Retry)  # a recomputed update would be of another version
        outcome = "dropped" if isinstance(decision, Drop) else "abort"
        self._executor.record(_nonfinite_incident(step, result, outcome))
        if not isinstance(decision, Drop):
            raise DistmetaError(f"step {step}: {decision.reason}")
        self._executor.counts["dropped"] += 1
        self.server.drop(result.shard)


def _carries_of(state: Mapping[str, object]) -> dict[int, Params]:
    """The carry of each shard in a state.

    Raises:
        UserError: An entry is no carry of a shard.
    """
    carries: dict[int, Params] = {}
    for entry, value in state.items():
        if entry.startswith(_CARRY):
            shard, _, name = entry.removeprefix(_CARRY).partition("/")
            if not (shard.isascii() and shard.isdigit() and len(shard) < 10 and name and isinstance(value, Tensor)):
                raise UserError(f"'{entry}' is no carry", where="server state", allowed=f"{_CARRY}SHARD/NAME")
            carries.setdefault(int(shard), {})[name] = value.detach().cpu().clone()
    return carries


def _synchronous(
    config: RunConfig, params: Params, buffers: Params, source: TaskSource, executor: Executor
) -> Procedure:
    server = ParameterServer(params, config.outer, config.train.steps, buffers)
    return Synchronous(config, source, server, executor)


def _asynchronous(
    config: RunConfig, params: Params, buffers: Params, source: TaskSource, executor: Executor
) -> Procedure:
    server = AsynchronousServer(params, config.outer, config.train.steps, buffers)
    return Asynchronous(config, source, server, executor)


def _zero(config: RunConfig, params: Params, buffers: Params, source: TaskSource, executor: Executor) -> Procedure:
    check_zero(params, buffers)
    return Zero(config, GroupWeights(config, params, executor))


def _trust_region(
    config: RunConfig, params: Params, buffers: Params, source: TaskSource, executor: Executor
) -> Procedure:
    check_trust_region(config, source, buffers)
    server = ParameterServer(params, config.outer, config.train.steps, buffers)
    return TrustRegion(config, source, server, executor)


def _epochs(config: RunConfig, params: Params, buffers: Params, source: TaskSource, executor: Executor) -> Procedure:
    check_trajectories(config, source, buffers)
    return Epochs(config, source, ParameterServer(params, config.outer, config.train.steps, buffers), executor)


PROCEDURES: dict[str, Callable[[RunConfig, Params, Params, TaskSource, Executor], Procedure]] = {
    "synchronous": _synchronous,
    "asynchronous": _asynchronous,
    "epochs": _epochs,
    "trust_region": _trust_region,
    "zero": _zero,
}
"""Procedures by `outer.procedure`."""


def _nonfinite_incident(step: int, result: Result, outcome: str) -> Incident:
    detail = f"step {step}: an entry is infinite or not a number"
    return Incident("nonfinite", result.worker, "", result.shard, detail, outcome)
