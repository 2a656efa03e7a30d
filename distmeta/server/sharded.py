"""One server in several parts, each with some of the parameters, for models that outgrow one process.

    push    each part gets the tensors it holds
    step    each part sums and divides  ->  sums of squares of its tensors
            the norm of all of them together (in the order of names)  ->  each part clips and steps
    pull    the parts' tensors together

A part is what `Part` says: a `ParameterServer` of its tensors, here or behind calls to another process. The bits are
those of one server with all parameters: sums, mean and optimizer work tensor by tensor, and the one number that depends
on all tensors, the global norm, is formed in the same order. States are interchangeable with those of one server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from distmeta.config.outer import OuterConfig
from distmeta.core.tensors import norm_of
from distmeta.core.types import Params, Report, Snapshot, Update
from distmeta.server.base import Server, StepError, StepRecord, Verdict, check_update, is_finite
from distmeta.server.ledger import Book
from distmeta.server.outer import AVERAGE, State, check_state, parameter_of
from distmeta.server.synchronous import ParameterServer, Reduced
from distmeta.server.tree import check_group

T = TypeVar("T")


class Part(Protocol):
    """A server of some of the parameters; the methods are those of `ParameterServer`, and wait for their answer."""

    def push(self, report: Report) -> Verdict:
        """Take a shard's sums of this part's tensors."""

    def push_sum(self, version: int, first: int, count: int, update: Update, *, finite: bool | None = None) -> Verdict:
        """Take a group's sums of this part's tensors."""

    def drop(self, shard: int) -> None:
        """Go without a shard."""

    def reduce(self, num_shards: int) -> Reduced:
        """First half of a step."""

    def apply(self, norm: float) -> StepRecord:
        """Second half of a step."""

    def pull(self) -> Snapshot:
        """This part's tensors."""

    def averaged(self) -> Params:
        """Their averages."""

    def state_dict(self) -> State:
        """This part's state."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state of this part."""


MakePart = Callable[[Params, OuterConfig, int], Part]
"""Makes the part for some parameters, with the outer section and the steps of the run."""


def partition(params: Mapping[str, Tensor], parts: int) -> tuple[tuple[str, ...], ...]:
    """Names for each of at most `parts` parts of about as many bytes; no part is empty, no tensor is cut.

    The largest tensors come first, each to the part with the fewest bytes. The result depends on names, shapes, types
    and `parts` alone. Within a part, names keep their order.
    """
    sizes = [0] * max(1, min(parts, len(params)))
    place: dict[str, int] = {}
    # A byte more for each tensor, so that those without entries are spread as well.
    for name in sorted(params, key=lambda name: (-params[name].nbytes, name)):
        place[name] = sizes.index(min(sizes))
        sizes[place[name]] += params[name].nbytes + 1
    return tuple(tuple(name for name in params if place[name] == index) for index in range(len(sizes)))


class ShardedServer(Server):
    """A `ParameterServer` in several parts.

    Calls to a part are made one after the other on a thread of its own; `push` does not wait for them. If a part fails
    in the middle of a step, others may have made it: `load_state_dict` makes all parts agree again.

    Args:
        params: The first meta-parameters (version 0).
        config: How to step.
        total_steps: Steps of the whole run, for the schedule.
        parts: How many parts at most (see `partition`).
        make_part: Makes a part.

    Attributes:
        names: The parameters of each part.

    Raises:
        UserError: The outer optimizer or its options cannot work.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        config: OuterConfig,
        total_steps: int,
        *,
        parts: int,
        make_part: MakePart = ParameterServer,
    ) -> None:
        self.names = partition(params, parts)
        self._config = config
        self._like = {name: torch.empty_like(tensor, device="meta") for name, tensor in params.items()}
        self._parts = [make_part({name: params[name] for name in names}, config, total_steps) for names in self.names]
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"part{index}") for index in range(len(self.names))]
        self._pushes: list[Future[Verdict]] = []
        self._drops: list[Future[None]] = []
        self._book = Book()
        self._version = 0
        self._lock = Lock()

    @property
    def version(self) -> int:
        """See `Server.version`."""
        return self._version

    def pull(self) -> Snapshot:
        """See `Server.pull`."""
        with self._lock:
            return Snapshot(self._version, self._gathered([found.params for found in self._all(_pull)]))

    def averaged(self) -> Params:
        """See `Server.averaged`."""
        with self._lock:
            return self._gathered(self._all(lambda part: part.averaged()))

    def push(self, report: Report) -> Verdict:
        """See `Server.push`. The parts take it later; what goes wrong there, the next step raises."""
        check_update(report.shard, report.update, self._like)
        finite = is_finite(report.update, report.finite)
        shards = range(report.shard, report.shard + 1)
        with self._lock:
            verdict = self._book.verdict(self._version, report.version, shards, finite=finite)
            if verdict is Verdict.ACCEPTED:
                self._book.accept(shards)
                for part, threads, piece in zip(self._parts, self._threads, self._split(report.update), strict=True):
                    piece_report = Report(report.version, report.shard, piece, finite=True)
                    self._pushes.append(threads.submit(part.push, piece_report))
            return verdict

    def push_sum(self, version: int, first: int, count: int, update: Update, *, finite: bool | None = None) -> Verdict:
        """See `ParameterServer.push_sum`. The parts take it later; what goes wrong there, the next step raises."""
        check_group(first, count)
        check_update(first, update, self._like)
        known, shards = is_finite(update, finite), range(first, first + count)
        with self._lock:
            verdict = self._book.verdict(self._version, version, shards, finite=known)
            if verdict is Verdict.ACCEPTED:
                self._book.accept(shards)
                for part, threads, piece in zip(self._parts, self._threads, self._split(update), strict=True):
                    self._pushes.append(threads.submit(part.push_sum, version, first, count, piece, finite=True))
            return verdict

    def drop(self, shard: int) -> None:
        """See `ParameterServer.drop`."""
        with self._lock:
            if self._book.drop(shard):
                for part, threads in zip(self._parts, self._threads, strict=True):
                    self._drops.append(threads.submit(part.drop, shard))

    def step(self, num_shards: int) -> StepRecord:
        """See `ParameterServer.step`."""
        with self._lock:
            self._book.check_complete(self._version, num_shards)
            self._settle()
            squares: dict[str, float] = {}
            for reduced in self._all(lambda part: part.reduce(num_shards)):
                squares.update(reduced.squares)
            norm = norm_of(squares)
            records = self._all(lambda part: part.apply(norm))
            self._book.clear()
            self._version = records[0].version
            return records[0]

    def state_dict(self) -> State:
        """The state of one server with all parameters."""
        with self._lock:
            states = self._all(lambda part: part.state_dict())
        by_name: dict[str | None, State] = {}
        for state in states:
            for entry, value in state.items():
                by_name.setdefault(parameter_of(entry), {})[entry] = value
        entries: State = dict(by_name.get(None, {}))
        averages: State = {}
        for name in self._like:
            for entry, value in by_name[name].items():
                (averages if entry == AVERAGE + name else entries)[entry] = value
        return {**entries, **averages}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See `Server.load_state_dict`."""
        check_state(state, self._config, self._like)
        pieces: list[dict[str, object]] = []
        for names in self.names:
            mine = {None, *names}
            pieces.append({entry: value for entry, value in state.items() if parameter_of(entry) in mine})
        with self._lock:
            self._pushes, self._drops = [], []  # whatever becomes of them, the parts forget them
            calls = zip(self._parts, self._threads, pieces, strict=True)
            _answers([threads.submit(part.load_state_dict, piece) for part, threads, piece in calls])
            self._book.clear()
            self._version = cast(int, state["num_steps"])

    def close(self) -> None:
        """End the threads, once the calls that have been made are done. A second call does nothing."""
        for threads in self._threads:
            threads.shutdown()

    def _split(self, update: Update) -> list[Update]:
        """Each part's tensors, with the weight and metrics of all."""
        return [
            Update({name: update.grad[name] for name in names if name in update.grad}, update.weight, update.metrics)
            for names in self.names
        ]

    def _gathered(self, pieces: Sequence[Params]) -> Params:
        merged = {name: tensor for piece in pieces for name, tensor in piece.items()}
        return {name: merged[name] for name in self._like}

    def _all(self, call: Callable[[Part], T]) -> list[T]:
        """The parts' answers to a call, which they work at together."""
        calls = zip(self._parts, self._threads, strict=True)
        return _answers([threads.submit(call, part) for part, threads in calls])

    def _settle(self) -> None:
        """Wait until the parts have taken all that was pushed."""
        _answers(self._drops)
        verdicts = _answers(self._pushes)
        refused = [verdict.value for verdict in verdicts if verdict is not Verdict.ACCEPTED]
        if refused:
            raise StepError(f"version {self._version} cannot step: parts of the server refused updates: {refused}")
        self._pushes, self._drops = [], []


def _pull(part: Part) -> Snapshot:
    return part.pull()


def _answers(calls: Sequence[Future[T]]) -> list[T]:
    """Wait for all calls; raises what the first that failed raised."""
    errors = [call.exception() for call in calls]
    for error in errors:
        if error is not None:
            raise error
    return [call.result() for call in calls]
