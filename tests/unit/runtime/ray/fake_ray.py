"""Ray without processes: actors' methods run in this process, one after the other, while the driver waits."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError

from distmeta.runtime.ray import actor as actor_module
from distmeta.runtime.ray import executor as executor_module
from distmeta.runtime.ray import rank as rank_module
from distmeta.runtime.ray import worker_group as worker_group_module
from distmeta.runtime.ray.cluster import Cluster

Fault = Callable[["FakeActor", str], RayError | None]
"""Returns what a call of an actor's method fails with, or None; `ActorDiedError` ends the actor."""


def object_lost() -> ObjectLostError:
    return ObjectLostError("ff" * 28, None, "")


@dataclass(eq=False)
class FakeRef:
    """A reference to an object, which is there once `ready`."""

    ready: bool = False
    value: Any = None
    error: RayError | None = None


@dataclass
class _Call:
    actor: FakeActor
    method: str
    args: Sequence[Any]
    refs: list[FakeRef]


class FakeMethod:
    """A method of an actor. In a concurrency group of its own it runs at once, else when its turn comes."""

    def __init__(self, actor: FakeActor, name: str, num_returns: int = 1, concurrency_group: str | None = None) -> None:
        self._actor, self._name = actor, name
        self._num_returns, self._group = num_returns, concurrency_group

    def options(self, **options: Any) -> FakeMethod:
        return FakeMethod(self._actor, self._name, **options)

    def remote(self, *args: Any) -> Any:
        call = _Call(self._actor, self._name, args, [FakeRef() for _ in range(self._num_returns)])
        if self._group:
            self._actor.ray.run(call)
        else:
            self._actor.ray.queue.append(call)
        return call.refs if self._num_returns > 1 else call.refs[0]


@dataclass(eq=False)
class FakeActor:
    """An actor and its node."""

    ray: FakeRay
    instance: Any
    number: int
    node_id: str
    alive: bool = True

    def __getattr__(self, name: str) -> FakeMethod:
        return FakeMethod(self, name)


@dataclass
class FakeRay:
    """What the runtime uses of the module `ray`.

    Attributes:
        nodes: Ids of the nodes; actors are spread over them.
        draining: Ids of nodes that are being drained.
        fault: Asked before each call of a method that is not in a concurrency group.
        calls: Number and method of each actor that was called, in order.
        placements: Resources of each rank, for each placement group that is in use.
    """

    nodes: Sequence[str] = ("node-0",)
    draining: set[str] = field(default_factory=set)
    fault: Fault = lambda actor, method: None
    queue: deque[_Call] = field(default_factory=deque)
    actors: list[FakeActor] = field(default_factory=list)
    calls: list[tuple[int, str]] = field(default_factory=list)
    placements: list[Any] = field(default_factory=list)
    util: Any = field(default_factory=lambda: SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1"))
    _running: FakeActor | None = None

    def remote(self, **_: Any) -> Callable[[type], Any]:
        def create(cls: type, *args: Any) -> FakeActor:
            number = len(self.actors)
            self.actors.append(FakeActor(self, cls(*args), number, self.nodes[number % len(self.nodes)]))
            return self.actors[-1]

        return lambda cls: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=partial(create, cls)))

    def get_runtime_context(self) -> Any:
        node_id = "of the driver" if self._running is None else self._running.node_id
        return SimpleNamespace(get_node_id=lambda: node_id)

    def put(self, value: Any) -> FakeRef:
        return FakeRef(True, value)

    def get(self, ref: FakeRef | Sequence[FakeRef], timeout: float | None = None) -> Any:
        if not isinstance(ref, FakeRef):
            return [self.get(each, timeout) for each in ref]
        assert ref.ready
        if ref.error is not None:
            raise ref.error
        return ref.value

    def wait(
        self, refs: Sequence[FakeRef], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[FakeRef], list[FakeRef]]:
        while timeout and self.queue and not any(ref.ready for ref in refs):
            self.run(self.queue.popleft())
        ready = [ref for ref in refs if ref.ready][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def kill(self, actor: FakeActor, no_restart: bool = True) -> None:
        actor.alive = False

    def run(self, call: _Call) -> None:
        actor = call.actor
        self.calls.append((actor.number, call.method))
        error = self.fault(actor, call.method) if actor.alive else ActorDiedError()
        if isinstance(error, ActorDiedError):
            actor.alive = False
        values: Sequence[Any] = [None] * len(call.refs)
        if error is None:
            self._running = actor
            try:
                args = [self.get(arg) if isinstance(arg, FakeRef) else arg for arg in call.args]
                value = getattr(actor.instance, call.method)(*args)
                values = value if len(call.refs) > 1 else [value]
            except RayError as lost:
                error = lost
            except Exception as raised:
                error = RayTaskError(call.method, traceback.format_exc(), raised)
            finally:
                self._running = None
        for ref, value in zip(call.refs, values, strict=True):
            ref.ready, ref.value, ref.error = True, value, error


def install(patch: pytest.MonkeyPatch, fake: FakeRay) -> None:
    """Let the runtime use `fake` instead of Ray, as an existing cluster."""
    for module in (actor_module, rank_module, worker_group_module, executor_module):
        patch.setattr(module, "ray", fake)
    patch.setattr(worker_group_module, "kill_process", lambda location: None)
    patch.setattr(
        worker_group_module, "reserve", lambda resources, num_ranks: fake.placements.append(resources) or fake
    )
    patch.setattr(worker_group_module, "in_bundle", lambda group, index: f"bundle {index}")
    patch.setattr(worker_group_module, "release", lambda group: fake.placements.pop())
    patch.setattr(executor_module, "connect", lambda *_: Cluster(started=False, disconnect=lambda: None))
    patch.setattr(executor_module, "wait_for_capacity", lambda *_: None)
    patch.setattr(worker_group_module, "cluster_state", SimpleNamespace(get_draining_nodes=lambda: fake.draining))
