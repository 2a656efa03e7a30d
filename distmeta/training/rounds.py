"""Outer steps in rounds of requests about trajectories that workers keep, and which runs can have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from typing_extensions import override

from distmeta.config import RunConfig
from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.types import Params, Report, Shard, Snapshot, Update, Work
from distmeta.runtime.executor import Executor, Result
from distmeta.server import ParameterServer, StepRecord, Verdict
from distmeta.server.outer import State
from distmeta.server.tree import Tree
from distmeta.tasks.base import TaskSource
from distmeta.training.procedure import Procedure


class Rounds:
    """Requests of one step: the same snapshot and shards, different vectors.

    Attributes:
        results: Those of all rounds, without their updates.
    """

    def __init__(self, executor: Executor, snapshot: Snapshot, shards: Sequence[Shard], engine: object) -> None:
        self._executor, self._snapshot, self._shards, self._engine = executor, snapshot, shards, engine
        self.results: list[Result] = []

    def ask(self, name: str, extra: Params | None = None) -> Update:
        """The sum of the answers of all shards.

        Raises:
            DistmetaError: One is not finite.
        """
        tree, work = Tree(), Work(name, self._engine)
        for result in self._executor.map(work, replace(self._snapshot, extra=extra or {}), self._shards):
            report: Report = result.value
            if report.finite is False:
                what = f"an entry of the answer of shard {report.shard} to '{name}' is infinite or not a number"
                raise DistmetaError(f"step {report.version}: {what}")
            if report.count > 1:
                tree.add_group(report.shard, report.count, report.update)
            else:
                tree.add(report.shard, report.update)
            self.results.append(replace(result, value=None))
        return tree.total()


class InRounds(Procedure):
    """Every step waits for all shards of its rounds: the result depends neither on who computes what, nor on when.

    Args:
        config: The run.
        source: Where the tasks come from.
        server: Holds the meta-parameters.
        executor: Who computes.
    """

    def __init__(self, config: RunConfig, source: TaskSource, server: ParameterServer, executor: Executor) -> None:
        self.server: ParameterServer = server
        self._config, self._source, self._executor = config, source, executor

    @override
    def state_dict(self) -> State:
        return self.server.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.server.load_state_dict(state)

    def _rounds(self, snapshot: Snapshot, drawn: int, work: Work) -> Rounds:
        """Rounds on the tasks that are drawn for a step."""
        config = self._config
        shards = self._source.shards("train", drawn, config.train.tasks_per_step, config.runtime.shard_size)
        return Rounds(self._executor, snapshot, shards, work.engine)

    def _make_step(self, total: Update) -> StepRecord:
        """Let the server make its next step by the sum of all shards.

        Raises:
            DistmetaError: It refuses the sum.
        """
        version = self.server.version
        verdict = self.server.push(Report(version, 0, total))
        if verdict is not Verdict.ACCEPTED:
            raise DistmetaError(f"step {version}: the sum over the shards is {verdict.value}")
        return self.server.step(1)


def check_trajectories(config: RunConfig, source: TaskSource, buffers: Params) -> None:
    """Check that a run has trajectories to keep through the rounds of `outer.trust_region` or `outer.epochs`.

    Raises:
        UserError: It has none, or they would mean something else in a later round.
    """
    where, none = ("outer.trust_region", "null") if config.outer.trust_region is not None else ("outer.epochs", "1")
    if source.supply is None:
        what = f"it keeps trajectories, of which tasks.source '{config.tasks.source}' has none"
        raise UserError(what, where=where, allowed=f"{none}, or interactive tasks ('navigation')")
    if buffers:
        what = (
            f"the network keeps running statistics ('{next(iter(buffers))}'), which move between the rounds of a step"
        )
        raise UserError(what, where=where, allowed=f"{none}, or a network without them")
