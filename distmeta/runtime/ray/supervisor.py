"""Looking after the workers of a run: signs of life, deadlines, machines that go; and acting on failures.

What a failure means is decided in `runtime.policy.decisions`; here, and nowhere else, it is done: hand a shard out
again, start a worker anew, let it rest, leave it out, end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.exceptions import RayError

from distmeta.config import RuntimeConfig
from distmeta.core.errors import WorkerError
from distmeta.core.types import Work
from distmeta.runtime.executor import Executor, Incident
from distmeta.runtime.policy.decisions import (
    Abort,
    Failure,
    LeaveOut,
    Policy,
    loses_worker,
    on_failure,
    on_worker_failure,
)
from distmeta.runtime.policy.schedule import Key, Schedule
from distmeta.runtime.ray.errors import final
from distmeta.runtime.ray.job import Job
from distmeta.runtime.ray.workers import Crew, Member

START_TIMEOUT_S = 180.0
NOBODY_TIMEOUT_S = 600.0
LOOK_EVERY_S = 0.5
NODES_EVERY_S = 2.0


class Care:
    """Looks after a crew.

    Args:
        config: Deadlines and limits.
        crew: The workers.
        schedule: Who computes what.
        executor: Where incidents are counted and kept.
        lost_worker: Called with the number of a worker that is gone.
        lost_object: Called when Ray has lost an object.

    Attributes:
        job: The present call.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        crew: Crew,
        schedule: Schedule,
        executor: Executor,
        lost_worker: Callable[[int], None],
        lost_object: Callable[[], None],
    ) -> None:
        self.job = Job(0, Work(""), {}, 0)
        self._config, self._crew, self._schedule, self._executor = config, crew, schedule, executor
        self._lost_worker, self._lost_object = lost_worker, lost_object
        self._policy = Policy(config.tolerance.max_shard_retries, config.tolerance.max_worker_failures)
        self._looked = self._looked_at_nodes = self._nobody_since = time.monotonic()

    def look_after(self) -> None:
        """Signs of life and deadlines; workers whose rest is over; machines that will go."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        self._crew.feel_pulses()
        self._crew.wake()
        for member in self._crew.members:
            if self._crew.silent(member):
                limit = f"{self._config.tolerance.heartbeat_timeout_s:g} s (runtime.tolerance.heartbeat_timeout_s)"
                self.failed(member, Failure("silent", member.index, f"no sign of life for {limit}"), None, None)
            elif self._crew.overdue(member, self._config.tolerance.shard_timeout_s):
                limit = f"{self._config.tolerance.shard_timeout_s:g} s (runtime.tolerance.shard_timeout_s)"
                failure = Failure("timed_out", member.index, f"no answer within {limit}")
                self.failed(member, failure, None, member.calls[0])
            elif member.state == "starting" and now - member.since > START_TIMEOUT_S:
                failure = Failure("timed_out", member.index, f"did not start within {START_TIMEOUT_S:g} s")
                self.failed(member, failure, None, None)
        if now - self._looked_at_nodes >= NODES_EVERY_S:
            self._looked_at_nodes = now
            self._leave_nodes()
        if self._crew.at_work():
            self._nobody_since = now
        elif now - self._nobody_since > NOBODY_TIMEOUT_S:
            raise WorkerError(f"no worker has been at work for {NOBODY_TIMEOUT_S:g} s")

    def _leave_nodes(self) -> None:
        """Workers on machines that will go finish their shard; then they are started anew elsewhere."""
        going = self._crew.nodes_going()
        for member in self._crew.members:
            if member.state == "ready" and member.where is not None and member.where.node in going:
                member.state = "leaving"
                for key in self._schedule.retire(member.index):
                    self._crew.forget(member, key)
                self._executor.record(Incident("left", member.index, member.node, None, "its machine will go"))
            if member.state == "leaving" and not self._schedule.busy(member.index):
                self._schedule.leave(member.index)
                self._crew.end(member)
                self._crew.rest(member, 0.0)

    def failed(self, member: Member, failure: Failure, error: RayError | None, key: Key | None) -> None:
        """Act on a failure: hand the shard out again or raise; replace the worker, let it rest, or leave it out."""
        others = sum(other is not member for other in self._crew.at_work())
        ours = key if key is not None and key[0] == self.job.epoch else None
        if ours is not None:
            failures = self.job.failures.setdefault(ours[1], [])
            failures.append(failure)
            decision = on_failure(ours[1], failures, self._policy, others)
            if isinstance(decision, Abort):
                self.note(member, failure, ours, "abort")
                raise final(decision.reason, error, f"shard {ours[1]} on worker {member.index}")
            self._schedule.failed(member.index, ours, time.monotonic(), decision.exclude)
            self._executor.counts["retries"] += 1
        if loses_worker(failure.kind):
            self._lost(member, failure, error, ours, others)
        else:
            self._lost_object()
            self.note(member, failure, ours, "retry")

    def _lost(self, member: Member, failure: Failure, error: RayError | None, key: Key | None, others: int) -> None:
        """Act on the loss of a worker. What was queued on it is handed out again."""
        self._schedule.leave(member.index)
        self._crew.end(member, by_force=failure.kind in ("silent", "timed_out"))
        self._lost_worker(member.index)
        member.failures.append(failure)
        fate = on_worker_failure(member.failures, self._policy, others)
        if isinstance(fate, Abort):
            self.note(member, failure, key, "abort")
            raise final(fate.reason, error, f"worker {member.index}")
        if isinstance(fate, LeaveOut):
            member.state = "out"
            self.note(member, failure, key, "left out")
            self._executor.record(
                Incident("left_out", member.index, member.node, None, fate.reason, "", failure.traceback)
            )
            return
        self._executor.counts["restarts"] += 1
        self.note(member, failure, key, "restart")
        self._crew.rest(member, fate.after_s)

    def note(self, member: Member, failure: Failure, key: Key | None, outcome: str) -> None:
        """Put a failure on record."""
        shard = None if key is None else key[1]
        self._executor.record(
            Incident(failure.kind, member.index, member.node, shard, failure.detail, outcome, failure.traceback)
        )
