"""The Ray actors of a run: where each is in its life, what it has been asked, when it was last heard.

    waiting (for room) -> starting (building its program) -> ready -> leaving (its machine will go)
       ^                                                       |
       +-- resting (after failures, growing) <-----------------+          out: failed too often

Each worker is an actor of its own, not a bundle of a placement group: workers need not be there together, and an actor
that waits for room is just what an autoscaler looks for. What to do about failures is not decided here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray._private.state import state as cluster_state

from distmeta.config import RuntimeConfig
from distmeta.core.types import Work
from distmeta.runtime.compression import Compression
from distmeta.runtime.executor import Recipe
from distmeta.runtime.policy.decisions import Failure
from distmeta.runtime.policy.schedule import Key, Order
from distmeta.runtime.ray.actor import PULSE, Whereabouts, WorkerActor, end_process
from distmeta.runtime.ray.cluster import Cluster
from distmeta.runtime.wire import ReportWire

State = Literal["waiting", "starting", "ready", "leaving", "resting", "out"]
Tag = Literal["hello", "started", "pulse", "shard", "sum"]

PULSES_IN_TIMEOUT = 4
"""Signs of life that are asked for within `heartbeat_timeout_s`."""
_MANY = 8


@dataclass
class Member:
    """One worker.

    Attributes:
        index: Its number, which a replacement takes over.
        state: Where it is in its life.
        since: When it came there (monotonic seconds, as all times here).
        heard: Last answer of any kind.
        where: Its node and process, once known.
        calls: Shards that it has been asked for, in order, and since when the first of them is the first.
        asked, asked_in_vain: When it was last asked for a sign of life, and first since it was heard.
        failures: Those in a row, without a shard in between.
        rest_until: End of its rest.
    """

    index: int
    actor: Any = None
    state: State = "resting"
    since: float = 0.0
    heard: float = 0.0
    where: Whereabouts | None = None
    calls: list[Key] = field(default_factory=list)
    first_since: float = 0.0
    asked: float = 0.0
    asked_in_vain: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    rest_until: float = 0.0

    @property
    def node(self) -> str:
        """Address and id of its node; empty if it has none yet."""
        return f"{self.where.host} ({self.where.node[:8]})" if self.where else ""


@dataclass(frozen=True)
class Answer:
    """An answer that is expected or has arrived: of whom, to what, and the reference to it.

    Attributes:
        key: Of a shard.
        group: Of a sum.
        grad: Reference to the shard's gradient, where that is a second object.
    """

    member: Member
    actor: Any
    tag: Tag
    ref: Any
    key: Key | None = None
    group: int | None = None
    grad: Any = None

    @property
    def current(self) -> bool:
        """False if the worker has been ended since."""
        return self.actor is self.member.actor


class Crew:
    """Starts, asks and ends the actors.

    Args:
        config: Their resources and time limits.
        recipe: The program.
        compression: How updates are rounded.
        cluster: Where they run.
    """

    def __init__(self, config: RuntimeConfig, recipe: Recipe, compression: Compression, cluster: Cluster) -> None:
        self.members = [Member(index) for index in range(config.max_workers)]
        self._config, self._start = config, (recipe, config.threads_per_worker, compression)
        # Of a cluster that was started here, workers inherit the environment, which starts them sooner.
        environment = cluster.worker_environment(config.threads_per_worker)
        self._options = {
            "num_cpus": config.cpus_per_worker,
            "num_gpus": config.gpus_per_worker,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment} if environment else None,
        }
        self._open: dict[Any, Answer] = {}

    def at_work(self) -> list[Member]:
        """Those that compute."""
        return [member for member in self.members if member.state in ("ready", "leaving")]

    def spawn(self, member: Member) -> None:
        """Ask Ray for an actor; it says hello when there was room for it, and builds its program then."""
        now = time.monotonic()
        decorate: Any = ray.remote(concurrency_groups={PULSE: 1})  # type: ignore[call-overload]
        member.actor = decorate(WorkerActor).options(**self._options).remote()
        member.state, member.since, member.heard, member.asked = "waiting", now, now, now
        member.where, member.calls = None, []
        self._expect(member, "hello", member.actor.hello.remote())
        self._expect(member, "started", member.actor.start.remote(member.index, *self._start))

    def order(self, member: Member, order: Order, key: Key, work: Work, snapshot: Any, *, split: bool) -> None:
        """Ask for a shard; `split`: its gradient shall stay where it is."""
        if not member.calls:
            member.first_since = time.monotonic()
        member.calls.append(key)
        call = member.actor.run_split.options(num_returns=2) if split else member.actor.run
        refs = call.remote(key, work, snapshot, order.shard, order.following)
        ref, grad = refs if split else (refs, None)
        self._expect(member, "shard", ref, key=key, grad=grad)

    def add(self, member: Member, group: int, reports: list[ReportWire], grads: list[Any]) -> None:
        """Ask for the sum of a group."""
        self._expect(member, "sum", member.actor.add.remote(reports, *grads), group=group)

    def forget(self, member: Member, key: Key) -> None:
        """Tell a worker that a shard need not be begun any more."""
        member.actor.forget.options(concurrency_group=PULSE).remote(key)

    def answers(self, timeout_s: float) -> list[Answer]:
        """Wait for answers, for at most so long; returns all that have arrived."""
        refs = list(self._open)
        if not refs:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(refs, timeout=timeout_s)
        if ready and len(refs) > _MANY:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        arrived = set(ready)
        found = [answer for ref, answer in self._open.items() if ref in arrived]
        for answer in found:
            del self._open[answer.ref]
            answer.member.heard = time.monotonic()
        return found

    def settle(self, answer: Answer) -> Key | None:
        """Take note that a call has been answered. Returns which shard the worker was at: the first of its calls."""
        calls = answer.member.calls
        running = calls[0] if calls else None
        if answer.key is not None:
            calls.remove(answer.key)
            answer.member.first_since = answer.member.heard
        return running

    def feel_pulses(self) -> None:
        """Ask those that have not been heard for a while for a sign of life."""
        now, every = time.monotonic(), self._config.tolerance.heartbeat_timeout_s / PULSES_IN_TIMEOUT
        for member in self.members:
            alive = member.state in ("starting", "ready", "leaving")
            if alive and now - max(member.heard, member.asked) >= every:
                if member.asked <= member.heard:  # nobody has asked while the driver was elsewhere: that is no silence
                    member.asked_in_vain = now
                member.asked = now
                self._expect(member, "pulse", member.actor.pulse.options(concurrency_group=PULSE).remote())

    def silent(self, member: Member) -> bool:
        """Whether a worker has left signs of life unanswered for too long."""
        alive = member.state in ("starting", "ready", "leaving")
        unanswered = alive and member.asked > member.heard
        patience_s = self._config.tolerance.heartbeat_timeout_s * (1.0 - 1.0 / PULSES_IN_TIMEOUT)
        late = time.monotonic() - member.asked_in_vain > patience_s
        return unanswered and late and not self._answered(member)

    def overdue(self, member: Member, limit_s: float) -> bool:
        """Whether a worker has been at one shard for longer than `limit_s`."""
        late = bool(member.calls) and time.monotonic() - member.first_since > limit_s
        return late and not self._answered(member)

    def end(self, member: Member, *, by_force: bool = False) -> None:
        """End a worker; by force, if its process may not listen. Its answers are no longer waited for."""
        self._open = {ref: answer for ref, answer in self._open.items() if answer.member is not member}
        if member.actor is not None:
            if by_force and member.where is not None:
                end_process(member.where)
            ray.kill(member.actor, no_restart=True)
        member.actor, member.calls = None, []

    def rest(self, member: Member, seconds: float) -> None:
        """Start a worker anew after a while."""
        now = time.monotonic()
        member.state, member.since, member.rest_until = "resting", now, now + seconds
        if not seconds:
            self.spawn(member)

    def wake(self) -> None:
        """Start those anew whose rest is over."""
        now = time.monotonic()
        for member in self.members:
            if member.state == "resting" and now >= member.rest_until:
                self.spawn(member)

    def nodes_going(self) -> set[str]:
        """Ids of nodes that will go: drained, or noticed of preemption."""
        return set(cluster_state.get_draining_nodes())

    def close(self) -> None:
        """End all."""
        for member in self.members:
            self.end(member)

    def _answered(self, member: Member) -> bool:
        """Whether an answer lies ready that has not been taken, since the driver was elsewhere."""
        refs = [ref for ref, answer in self._open.items() if answer.member is member]
        return bool(refs) and bool(ray.wait(refs, timeout=0)[0])

    def _expect(
        self, member: Member, tag: Tag, ref: Any, key: Key | None = None, group: int | None = None, grad: Any = None
    ) -> None:
        self._open[ref] = Answer(member, member.actor, tag, ref, key, group, grad)
