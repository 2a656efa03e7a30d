"""How one outer step is made of many shards: all of them from one snapshot, or whatever has come.

Synchronous     snapshot -> all shards of the step -> sum in shard order -> step; the same bits on any workers
Asynchronous    each worker always has a shard, from the newest snapshot when it got it; a step is made of the
                updates that have come since the last one, weighted by their age (`outer.staleness`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Protocol

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError
from distmeta.core.types import Params, Report, Shard, Snapshot
from distmeta.runtime.executor import Executor, Incident, Result
from distmeta.runtime.policy.decisions import Drop, Retry, on_nonfinite
from distmeta.server import AsynchronousServer, ParameterServer, Server, ShardedServer, StepRecord, Verdict
from distmeta.tasks.base import TaskSource
from distmeta.training.evaluate import make_shards


@dataclass(frozen=True)
class Step:
    """An outer step: what the server did, the results that it was made of, and the tasks in them."""

    record: StepRecord
    results: Sequence[Result]
    tasks: int


class Steps(Protocol):
    """Makes outer steps."""

    def step(self, kind: str) -> Step:
        """Make the next one; `kind` is what workers are asked for.

        Raises:
            DistmetaError: It cannot be made.
        """


def build_server(config: RunConfig, params: Params, stack: ExitStack) -> Server:
    """The server that `config.outer` asks for; `stack` ends it.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """
    outer, steps = config.outer, config.train.steps
    if outer.staleness is not None:
        return AsynchronousServer(params, outer, steps)
    if outer.parts == 1:
        return ParameterServer(params, outer, steps)
    if config.runtime.executor == "local":
        server = ShardedServer(params, outer, steps, parts=outer.parts)
    else:
        from distmeta.runtime.ray.parts import RayPart

        server = ShardedServer(params, outer, steps, parts=outer.parts, make_part=RayPart)
    stack.callback(server.close)
    return server


def build_steps(
    config: RunConfig, source: TaskSource, server: Server, executor: Executor
) -> Synchronous | Asynchronous:
    """How the steps of a run are made with a server."""
    if isinstance(server, AsynchronousServer):
        return Asynchronous(config, source, server, executor)
    assert isinstance(server, ParameterServer | ShardedServer)
    return Synchronous(config, source, server, executor)


def _shards_of_step(config: RunConfig, source: TaskSource, step: int) -> tuple[Shard, ...]:
    return make_shards(source, "train", step, config.train.tasks_per_step, config.runtime.shard_size)


class Synchronous:
    """Every step waits for all its shards (rule: the result does not depend on who computes what, or when)."""

    def __init__(
        self, config: RunConfig, source: TaskSource, server: ParameterServer | ShardedServer, executor: Executor
    ) -> None:
        self._config, self._source, self._server, self._executor = config, source, server, executor

    def step(self, kind: str) -> Step:
        """See `Steps.step`."""
        step, shards = self._server.version, self._shards(self._server.version)
        upcoming = self._shards(step + 1) if step + 1 < self._config.train.steps else ()
        results: list[Result] = []
        useless: dict[int, list[int]] = {}
        for result in self._executor.map(kind, self._server.pull(), shards, upcoming):
            verdict = self._push(result.value)
            if verdict is Verdict.NONFINITE:
                useless.setdefault(result.shard, []).append(result.worker)
                self._refused(step, result, useless[result.shard])
            elif verdict is not Verdict.ACCEPTED:
                raise DistmetaError(f"step {step}: the update of shard {result.shard} is {verdict.value}")
            else:
                results.append(replace(result, value=None))  # its update is not held for longer than it takes to add
        return Step(self._server.step(len(shards)), results, self._config.train.tasks_per_step)

    def _push(self, report: Report) -> Verdict:
        if report.count == 1:
            return self._server.push(report)
        return self._server.push_sum(report.version, report.shard, report.count, report.update, finite=report.finite)

    def _shards(self, step: int) -> tuple[Shard, ...]:
        return _shards_of_step(self._config, self._source, step)

    def _refused(self, step: int, result: Result, workers: Sequence[int]) -> None:
        """Act on an update that is not finite: have it computed elsewhere, go without it, or end the run."""
        policy = self._config.outer.nonfinite
        decision = on_nonfinite(result.shard, workers, self._executor.num_workers, policy)
        outcome = {Retry: "retry", Drop: "dropped"}.get(type(decision), "abort")
        detail = f"step {step}: an entry is infinite or not a number"
        self._executor.record(Incident("nonfinite", result.worker, "", result.shard, detail, outcome))
        if isinstance(decision, Retry):
            self._executor.again(result)
        elif isinstance(decision, Drop):
            self._executor.counts["dropped"] += 1
            self._server.drop(result.shard)
        else:
            raise DistmetaError(f"step {step}: {decision.reason}")


class Asynchronous:
    """Nobody waits (see `distmeta.server.asynchronous`): the one mode whose result depends on who was faster.

    Tasks are those of the synchronous steps, one after the other, whatever the version they are computed at.
    """

    def __init__(self, config: RunConfig, source: TaskSource, server: AsynchronousServer, executor: Executor) -> None:
        self._config, self._source, self._server, self._executor = config, source, server, executor
        self._first_step = server.version
        self._given = 0
        self._out: dict[int, Shard] = {}
        self._lost: list[Shard] = []
        self._snapshot: Snapshot | None = None
        self._results: Iterator[Result] | None = None

    def step(self, kind: str) -> Step:
        """See `Steps.step`."""
        per_step = len(self._shards_of(0))
        if self._results is None:
            # What was computed for a stream that has been left (to evaluate) is computed again.
            self._lost += self._out.values()
            self._results = self._executor.stream(kind, self._feed)
        results: list[Result] = []
        tasks = 0
        for result in self._results:
            tasks_of_shard = len(self._out.pop(result.shard).specs)
            verdict = self._server.push(result.value)
            if verdict is Verdict.ACCEPTED:
                results.append(replace(result, value=None))
                tasks += tasks_of_shard
            elif verdict is Verdict.STALE:
                self._executor.counts["stale"] += 1
            else:
                self._refused(result, verdict)
            if self._server.ready(per_step):
                break
        return Step(self._server.step(per_step), results, tasks)

    def pause(self) -> None:
        """The workers are wanted for something else."""
        self._results = None

    def _feed(self) -> tuple[Snapshot, Shard] | None:
        if self._snapshot is None or self._snapshot.version != self._server.version:
            self._snapshot = self._server.pull()
        shard = self._lost.pop(0) if self._lost else self._next()
        self._out[shard.index] = shard
        return self._snapshot, shard

    def _next(self) -> Shard:
        per_step = len(self._shards_of(0))
        step, place = divmod(self._given, per_step)
        shard = Shard(self._given, self._shards_of(self._first_step + step)[place].specs)
        self._given += 1
        return shard

    def _shards_of(self, step: int) -> tuple[Shard, ...]:
        return _shards_of_step(self._config, self._source, step)

    def _refused(self, result: Result, verdict: Verdict) -> None:
        step = self._server.version
        if verdict is not Verdict.NONFINITE:
            raise DistmetaError(f"step {step}: the update of shard {result.shard} is {verdict.value}")
        decision = on_nonfinite(result.shard, [result.worker], 1, self._config.outer.nonfinite)
        detail = f"step {step}: an entry is infinite or not a number"
        outcome = "dropped" if isinstance(decision, Drop) else "abort"
        self._executor.record(Incident("nonfinite", result.worker, "", result.shard, detail, outcome))
        assert not isinstance(decision, Retry)  # a second opinion would be about another version
        if not isinstance(decision, Drop):
            raise DistmetaError(f"step {step}: {decision.reason}")
        self._executor.counts["dropped"] += 1
        self._server.drop(result.shard)
