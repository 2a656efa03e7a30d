"""How an outer step is made of many shards.

Synchronous     snapshot -> all shards of the step -> sum in the order of shards -> step; the same bits on any workers
Asynchronous    each worker always has a shard, computed from the newest snapshot at its assignment; a step is made of
                the updates that have arrived since the last one, weighted by their age (`outer.staleness`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError
from distmeta.core.types import Params, Shard, Snapshot, Work
from distmeta.runtime.executor import Executor, Incident, Result
from distmeta.runtime.policy.decisions import Drop, Retry, on_nonfinite
from distmeta.server import AsynchronousServer, ParameterServer, Server, StepRecord, Verdict
from distmeta.tasks.base import TaskSource


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

    server: Server

    def step(self, work: Work) -> Step:
        """Make the next step; workers compute `work`.

        Raises:
            DistmetaError: It cannot be made.
        """

    def pause(self) -> None:
        """Let go of the workers, which are needed for other work."""


def build_procedure(config: RunConfig, params: Params, source: TaskSource, executor: Executor) -> Procedure:
    """Make the procedure that `config.outer` asks for, with its server.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """
    if config.outer.staleness is None:
        server = ParameterServer(params, config.outer, config.train.steps)
        return Synchronous(config, source, server, executor)
    return Asynchronous(config, source, AsynchronousServer(params, config.outer, config.train.steps), executor)


def _shards_of_step(config: RunConfig, source: TaskSource, step: int) -> tuple[Shard, ...]:
    return source.shards("train", step, config.train.tasks_per_step, config.runtime.shard_size)


class Synchronous(Procedure):
    """Every step waits for all its shards: the result depends neither on who computes what, nor on when."""

    def __init__(self, config: RunConfig, source: TaskSource, server: ParameterServer, executor: Executor) -> None:
        self.server: ParameterServer = server
        self._config, self._source, self._executor = config, source, executor

    @override
    def step(self, work: Work) -> Step:
        step, shards = self.server.version, self._shards(self.server.version)
        upcoming = self._shards(step + 1) if step + 1 < self._config.train.steps else ()
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
                results.append(replace(result, value=None))  # frees the update as soon as it is added
        return Step(self.server.step(len(shards)), results, self._config.train.tasks_per_step)

    @override
    def pause(self) -> None:
        pass  # between two steps no worker computes

    def _shards(self, step: int) -> tuple[Shard, ...]:
        return _shards_of_step(self._config, self._source, step)

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
        self._config, self._source, self._executor = config, source, executor
        self._first_step = 0
        self._num_assigned = 0
        self._running: dict[int, Shard] = {}
        self._interrupted: list[Shard] = []
        self._snapshot: Snapshot | None = None
        self._results: Iterator[Result] | None = None

    @override
    def step(self, work: Work) -> Step:
        per_step = len(self._shards_of(0))
        if self._results is None:
            # Shards of a stream that was left, to evaluate, are computed again; those of earlier ones may still wait.
            self._interrupted += self._running.values()
            self._running.clear()
            self._results = self._executor.stream(work, self._feed)
        results: list[Result] = []
        num_tasks = 0
        for result in self._results:
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

    def _feed(self) -> tuple[Snapshot, Shard] | None:
        if self._snapshot is None or self._snapshot.version != self.server.version:
            self._snapshot = self.server.pull()
        shard = self._interrupted.pop(0) if self._interrupted else self._next()
        self._running[shard.index] = shard
        return self._snapshot, shard

    def _next(self) -> Shard:
        if not self._num_assigned:  # now, because a resumed run loads the server's state after this has been made
            self._first_step = self.server.version
        per_step = len(self._shards_of(0))
        step, place = divmod(self._num_assigned, per_step)
        shard = Shard(self._num_assigned, self._shards_of(self._first_step + step)[place].specs)
        self._num_assigned += 1
        return shard

    def _shards_of(self, step: int) -> tuple[Shard, ...]:
        return _shards_of_step(self._config, self._source, step)

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


def _nonfinite_incident(step: int, result: Result, outcome: str) -> Incident:
    detail = f"step {step}: an entry is infinite or not a number"
    return Incident("nonfinite", result.worker, "", result.shard, detail, outcome)
