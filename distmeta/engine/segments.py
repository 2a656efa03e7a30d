"""Segments of adaptation: the start, an inner step, or both together, as functions of T tasks.

A segment is a pure function of the meta-parameters, the state before it and further tensors, with a key: segments with
equal keys run the same operations. A state is a learner's adapted state together with the running statistics of the
task's network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.lifts import Lift
from distmeta.methods.estimators.base import State
from distmeta.methods.learners.base import Fast, Learner, Stage
from distmeta.models.network import Network
from distmeta.models.random import mix_seed

Tensors = tuple[Tensor, ...]
Key = tuple[Any, ...]
Places = Mapping[int, int]
_PREDICTION = -1
"""Stream of the random layers in predictions; inner step k has stream k + 1, the start draws from the seed itself."""


class TaskState(NamedTuple):
    """A state: what learners adapt, and the running statistics of the network, by name."""

    fast: Fast
    buffers: Params


@dataclass(frozen=True)
class Segment:
    """A segment of adaptation.

    Attributes:
        key: Segments with equal keys run the same operations.
        function: (meta, state before, inputs) -> state after; pure.
        inputs: A pytree of the other tensors that it reads.
        k: Number of inner steps after it.
    """

    key: Key
    function: Callable[[Params, State, Any], State]
    inputs: Any
    k: int


class Segments:
    """Makes the segments of a learner, and the networks of tasks.

    Args:
        learner: Whose adaptation.
        lift: Takes a function of one task to many (`distmeta.engine.lifts`).
        apart: Whether each task has meta-parameters of its own, so that these have a task axis as well.

    Attributes:
        buffers: Names of the running statistics among the meta-parameters: every task starts from these.
    """

    def __init__(self, learner: Learner, lift: Lift, *, apart: bool = False) -> None:
        self._learner, self._lift, self._apart = learner, lift, apart
        self.buffers = frozenset(learner.backbone.buffers())
        self._isolates, self._fixed = learner.backbone.isolates_tasks, learner.fixed

    def each(self, function: Callable[..., Any], meta: Params, num_tasks: int, *arguments: Any) -> Any:
        """`function(meta, *arguments)`, written for one task, of T tasks."""
        if self._apart:
            return self._lift(function)(meta, *arguments)
        if not self._isolates:
            return self._lift(partial(function, meta))(*arguments)
        own = {name: tensor.expand(num_tasks, *tensor.shape) for name, tensor in meta.items()}
        return self._lift(function)(own, *arguments)

    def stages(self, episodes: Episode) -> Sequence[Stage]:
        """What each inner step does; none where the tasks lack a role, so that the meta-parameters are scored."""
        roles = self._learner.roles
        if not all(role in episodes.roles for role in roles):
            return ()
        return self._learner.stages({role: episodes[role].inputs.shape[1] for role in roles})

    def of_walk(
        self,
        meta: Params,
        episodes: Episode,
        stages: Sequence[Stage],
        *,
        fuse: bool,
        first: int | None = None,
        at_hand: Callable[[int], Episode] | None = None,
    ) -> Iterator[Segment]:
        """The segments of adaptation in order.

        Args:
            meta: Meta-parameters.
            episodes: T tasks.
            stages: What each inner step does.
            fuse: Make the start and the first inner step one segment.
            first: Inner step to begin with; None: with the start.
            at_hand: The tasks as they are for an inner step, once the state before it is known; None: always the same.
        """
        if first is None and not (fuse and stages):
            yield self.start(episodes)
        for k in range(first or 0, len(stages)):
            tasks = episodes if at_hand is None else at_hand(k)
            if k == 0 and fuse:
                yield self._start_and_step(meta, tasks, stages[0])
            else:
                yield self.step(meta, tasks, stages[k], k)

    def start(self, episodes: Episode) -> Segment:
        task = episodes.only(self._learner.roles)

        def start(meta: Params, _: State, inputs: Tensors) -> State:
            return self.each(self._start_one, meta, episodes.num_tasks, task.rebuild(inputs))

        return Segment(("start", task.form), start, task.tensors(), 0)

    def step(self, meta: Params, episodes: Episode, stage: Stage, k: int) -> Segment:
        """Inner step `k`."""
        batch, scalars, seeds = _stage_inputs(meta, episodes, stage, k)
        places = _places_of_stage(episodes, stage)
        function = partial(self._lifted_step, batch, stage.kind, places)
        key = ("step", stage.kind, *places.items(), *batch)
        return Segment(key, function, (batch.tensors(), scalars, seeds), k + 1)

    def network(
        self, buffers: Params, task: Episode, *, training: bool, places: Places | None = None, tapped: bool = False
    ) -> Network:
        """The network that predicts for a task; `places` of further texts, by their number."""
        draws = self._learner.backbone.is_random or self._learner.draws
        seed = None if task.seeds is None or not draws else mix_seed(task.seeds, _PREDICTION)
        known = dict(_places(task))
        for texts, count in (places or {}).items():
            known[texts] = max(count, known.get(texts, 0))
        return Network(self._learner.backbone, buffers, seed, training=training, places=known, tapped=tapped)

    def buffers_of(self, meta: Params) -> Params:
        """The running statistics among meta-parameters."""
        return {name: meta[name] for name in meta if name in self.buffers}

    def params_of(self, meta: Params) -> Params:
        """Meta-parameters without running statistics; nothing is differentiated by those that are fixed."""
        if not self.buffers and not self._fixed:
            return meta
        return {
            name: tensor.detach() if name in self._fixed else tensor
            for name, tensor in meta.items()
            if name not in self.buffers
        }

    def without_unused_seeds(self, episodes: Episode) -> Episode:
        """The episodes without seeds, unless the network, the learner or what the tasks answer draws from them."""
        used = self._learner.backbone.is_random or self._learner.draws or episodes.supply is not None
        return episodes if used else replace(episodes, seeds=None)

    def _start_and_step(self, meta: Params, episodes: Episode, stage: Stage) -> Segment:
        task = episodes.only(self._learner.roles)
        batch, scalars, seeds = _stage_inputs(meta, episodes, stage, 0)
        places = _places_of_stage(episodes, stage)

        def start_and_step(meta: Params, _: State, inputs: Any) -> State:
            task_tensors, batch_tensors, scalars, seeds = inputs

            def one(meta: Params, task: Episode, batch: Batch, seed: Tensor | None) -> TaskState:
                return step(meta, self._start_one(meta, task), batch, seed)

            step = partial(self._step_one, scalars, stage.kind, places)
            return self.each(
                one, meta, episodes.num_tasks, task.rebuild(task_tensors), batch.rebuild(batch_tensors), seeds
            )

        inputs = (task.tensors(), batch.tensors(), scalars, seeds)
        return Segment(("start_and_step", stage.kind, task.form, *batch), start_and_step, inputs, 1)

    def _lifted_step(self, batch: Batch, kind: int, places: Places, meta: Params, state: State, inputs: Any) -> State:
        tensors, scalars, seeds = inputs
        step = partial(self._step_one, scalars, kind, places)
        return self.each(step, meta, len(tensors[0]), state, batch.rebuild(tensors), seeds)

    def _start_one(self, meta: Params, task: Episode) -> TaskState:
        net = Network(self._learner.backbone, self.buffers_of(meta), task.seeds, places=_places(task))
        fast = self._learner.start(net, self.params_of(meta), task)
        return TaskState(fast, net.buffers)

    def _step_one(
        self,
        scalars: Tensor,
        kind: int,
        places: Places,
        meta: Params,
        state: TaskState,
        batch: Batch,
        seed: Tensor | None,
    ) -> TaskState:
        net = Network(self._learner.backbone, state.buffers, seed, places=places)
        fast = self._learner.advance(net, self.params_of(meta), state.fast, batch, kind, scalars)
        return TaskState(fast, net.buffers)


def _places(task: Episode) -> Places:
    """Tokens that the texts of each role fit into, end to end, by the number of texts."""
    places: dict[int, int] = {}
    for role, count in task.sizes[0].places if task.sizes else ():
        if role in task.roles:
            texts = len(task[role].inputs)
            places[texts] = max(count, places.get(texts, 0))
    return places


def _places_of_stage(episodes: Episode, stage: Stage) -> Places:
    """The same for an inner step that uses all texts of its role; nothing is known of some of them."""
    known = dict(episodes.sizes[0].places) if episodes.sizes and stage.rows is None else {}
    texts = episodes[stage.role].inputs.shape[1]
    return {texts: known[stage.role]} if stage.role in known else {}


def _stage_inputs(meta: Params, episodes: Episode, stage: Stage, k: int) -> tuple[Batch, Tensor, Tensor | None]:
    """The examples, the scalars and the seeds [T] of an inner step."""
    batch = stage.select(episodes, axis=1)
    scalars = next(iter(meta.values())).new_tensor(stage.scalars)
    return batch, scalars, None if episodes.seeds is None else mix_seed(episodes.seeds, k + 1)
