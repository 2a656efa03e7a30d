"""Eager task operations: the implementation of `TaskOps` that every other one is tested against.

Adaptation runs as segments: the start, then one segment for each inner step. The pullback of a segment either stores
the segment's autograd graph until the backward pass (`engine.memory = unrolled`), or stores only the state before the
segment and recomputes its graph in the backward pass (`flat`). The latter is an adjoint sweep: its memory grows only by
states, of which there are about twice the square root of many inner steps (`distmeta.engine.states`). Both give the
same bits.

Interactive tasks are asked for the examples of an inner step, or of what is scored, with the state at hand. What they
answer is an input of the segment like any other: no derivative goes through the asking, and recomputing asks nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from typing_extensions import override

from distmeta.core.types import Act, Episode, Params
from distmeta.engine.graphs.tracing import trace
from distmeta.engine.lifts import LIFTS
from distmeta.engine.segments import Key, Segment, Segments, TaskState, Tensors
from distmeta.engine.states import States
from distmeta.engine.trees import Structure, derivatives, flatten, graph_leaves
from distmeta.methods.estimators.base import Cotangent, Pullback, Scores, Slopes, State, TaskOps, Visit
from distmeta.methods.learners.base import Fast, Learner, Proximal, Stage
from distmeta.methods.terms import ADAPTED, At, Metrics, OuterTerm, outer_loss, terms_at
from distmeta.models.base import HEAD, MEMORY
from distmeta.models.network import Network

Memory = Literal["auto", "unrolled", "flat"]
MAX_UNROLLED_STEPS = 16
"""`memory = auto` stores the autograd graph of all inner steps up to this number of steps."""


class EagerOps(TaskOps):
    """Runs operations eagerly. Other implementations override `_run` and `_run_storing_graph`.

    Meta-parameters that are passed in may contain the network's running statistics: every task starts from these.

    Args:
        learner: Whose operations.
        lift: `loop` or `vmap` (see `distmeta.engine.lifts`).
        terms: The outer loss.
        memory: `flat` recomputes each segment in the backward pass instead of storing its autograd graph.
        training: Whether predictions are those of training: random layers draw, running statistics move.
    """

    def __init__(
        self, learner: Learner, lift: str, terms: Sequence[OuterTerm], memory: Memory = "auto", *, training: bool = True
    ) -> None:
        self._learner, self._lift, self._memory, self._training = learner, LIFTS[lift], memory, training
        self._terms = tuple(terms)
        self.places: Collection[At] = frozenset(term.at for term in terms)
        self._segments = Segments(learner, self._lift)
        self.buffers: Collection[str] = self._segments.buffers
        # Under vmap, weights that all tasks start from stay unbatched in the first step; its result is batched.
        self._fuse_start = lift == "vmap"

    @override
    def num_steps(self, episodes: Episode) -> int:
        return len(self._segments.stages(episodes))

    def stages(self, episodes: Episode) -> Sequence[Stage]:
        """What each inner step does for these tasks."""
        return self._segments.stages(episodes)

    @override
    def walk(
        self,
        meta: Params,
        episodes: Episode,
        *,
        record: bool = False,
        marks: Collection[int] = (),
        state: State = None,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[Visit]:
        episodes = self._segments.without_unused_seeds(episodes)
        stages = self._segments.stages(episodes)[:last]
        recompute = self._recomputes(stages[first:])

        def at_hand(k: int) -> Episode:
            return self._collected(meta, state, episodes, [(stages[k].role, HEAD)], k)

        if state is None:
            fuse = self._fuse_start and episodes.supply is None and not (record and 0 in marks)
            segments = self._segments.of_walk(meta, episodes, stages, fuse=fuse, at_hand=at_hand)
            if fuse and stages and 0 in marks:  # beside the fused segment, which is faster than going on from here
                start = self._segments.start(episodes)
                yield Visit(0, self._after(start, meta, None), None)
        else:
            segments = self._segments.of_walk(meta, episodes, stages, fuse=False, first=first, at_hand=at_hand)
        states = States(lambda segment, before: self._after(segment, meta, before), len(stages) - first)
        for segment in segments:
            if record:
                before = states.add(segment, state) if recompute else None
                visit = self._visit_recorded(segment, meta, state, before)
            else:
                visit = Visit(segment.k, self._after(segment, meta, state), None)
            state = visit.state
            yield visit

    @override
    def start(self, meta: Params, episodes: Episode) -> Visit:
        segment = self._segments.start(self._segments.without_unused_seeds(episodes))
        recompute = self._recomputes(self._segments.stages(episodes))
        return self._visit_recorded(segment, meta, None, (lambda: None) if recompute else None)

    @override
    def linearise(self, meta: Params, episodes: Episode, state: State, k: int) -> Visit:
        episodes = self._segments.without_unused_seeds(episodes)
        stage = self._segments.stages(episodes)[k]
        episodes = self._collected(meta, state, episodes, [(stage.role, HEAD)], k)
        segment = self._segments.step(meta, episodes, stage, k)
        return self._visit_recorded(segment, meta, state, lambda: state)

    @override
    def score(self, meta: Params, state: State, episodes: Episode, at: At = "last") -> Scores:
        episodes = self.asked(meta, state, self._segments.without_unused_seeds(episodes), at)

        def score(meta: Params, state: State, tensors: Tensors) -> Scores:
            return self._score(meta, state, episodes.rebuild(tensors), at)[1]

        scores: Scores = self._run(("score", at, episodes.form), score, meta, state, episodes.tensors())
        return scores

    @override
    def score_grad(self, meta: Params, state: State, episodes: Episode, at: At = "last") -> Slopes:
        episodes = self.asked(meta, state, self._segments.without_unused_seeds(episodes), at)

        def score_grad(meta: Params, state: State, tensors: Tensors) -> tuple[Cotangent, Scores]:
            leaves, structure = _as_graph_leaves((meta, state))
            meta, state = structure.rebuild(leaves)
            with torch.enable_grad():
                losses, scores = self._score(meta, state, episodes.rebuild(tensors), at)
                loss = losses.sum()
            return derivatives([loss], leaves, [torch.ones_like(loss)]), tree_map(_detached, scores)

        key = ("score_grad", at, episodes.form)
        grads, scores = self._run(key, score_grad, meta, state, episodes.tensors())
        return Slopes(*self._split(meta, grads), scores)

    @override
    def displacement(self, meta: Params, state: State) -> Params:
        def displacement(meta: Params, fast: Fast) -> Params:
            moved = self._lift(lambda fast: self._learner.displacement(meta, fast))(fast)
            return {name: tensor.sum(0) for name, tensor in moved.items()}

        total: Params = self._run(("displacement",), displacement, self._segments.params_of(meta), state.fast)
        return total

    @override
    def proximal(self, state: State) -> Proximal:
        return self._learner.proximal(state.fast)

    @override
    def apart(self) -> EagerOps:
        other = copy.copy(self)
        other._segments = Segments(self._learner, self._lift, apart=True)
        return other

    def adapt(self, meta: Params, episodes: Episode) -> State:
        """The state after all inner steps."""
        state: State = None
        for visit in self.walk(meta, episodes):  # one state at a time: all of them may not fit into memory
            state = visit.state
        return state

    def predict(
        self,
        meta: Params,
        state: State,
        episodes: Episode,
        inputs: Tensor,
        places: int | None = None,
        *,
        head: str,
    ) -> Tensor:
        """Outputs [T, B, O] for inputs [T, B, ...].

        Args:
            meta: Meta-parameters.
            state: The state after adaptation.
            episodes: T tasks.
            inputs: [T, B, ...].
            places: Tokens that the B texts of each task fit into, end to end; None if that is not known.
            head: Head of the network that they go through.
        """
        outputs: Tensor = self._predict("predict", meta, state, episodes, inputs, places, head)[0]
        return outputs

    def layers(
        self, meta: Params, state: State, episodes: Episode, inputs: Tensor, places: int | None = None, *, head: str
    ) -> tuple[Tensor, Params]:
        """What `predict` returns, and the outputs [T, B, ...] of the network's layers for the same inputs, by name."""
        found: tuple[Tensor, Params] = self._predict("layers", meta, state, episodes, inputs, places, head)
        return found

    def _predict(
        self, kind: str, meta: Params, state: State, episodes: Episode, inputs: Tensor, places: int | None, head: str
    ) -> tuple[Tensor, Params]:
        known = {} if places is None else {inputs.shape[1]: places}
        episodes, tapped = self._segments.without_unused_seeds(episodes.only(self._learner.roles)), kind == "layers"

        def predict(meta: Params, state: State, tensors: Tensors) -> tuple[Tensor, Params]:
            def one(meta: Params, state: TaskState, task: Episode, inputs: Tensor) -> tuple[Tensor, Params]:
                net = self._segments.network(state.buffers, task, training=self._training, places=known, tapped=tapped)
                params = self._segments.params_of(meta)
                outputs = self._learner.predict(net, params, state.fast, task, inputs, head=head)
                return outputs, net.taps

            tasks = episodes.rebuild(tensors[:-1])
            found: tuple[Tensor, Params] = self._segments.each(one, meta, episodes.num_tasks, state, tasks, tensors[-1])
            return found

        tensors = (*episodes.tensors(), inputs)
        found: tuple[Tensor, Params] = self._run((kind, episodes.form, places, head), predict, meta, state, tensors)
        return found

    def asked(self, meta: Params, state: State, episodes: Episode, at: At = "last") -> Episode:
        """Interactive tasks with what the terms at a place score; others as they are."""
        terms = [term for _, term in terms_at(self._terms, at)]
        for place_state, joint in ((state, False), (None, True)):
            asked = [(term.role, term.head) for term in terms if (term.at == "meta") is joint]
            episodes = self._collected(meta, place_state, episodes, asked, 0)
        return episodes

    def _collected(
        self, meta: Params, state: State, episodes: Episode, asked: Sequence[tuple[str, str]], k: int
    ) -> Episode:
        """Interactive tasks with the examples of roles; others as they are.

        Args:
            meta: Meta-parameters.
            state: The state that acts; None: the meta-parameters without adaptation.
            episodes: T tasks.
            asked: The roles, and the heads of the network that act in them.
            k: Number of the inner step (`Supply`).
        """
        supply = episodes.supply
        if supply is None or not asked:
            return episodes
        roles = dict(episodes.roles)
        with torch.no_grad():
            for role, head in asked:
                roles[role] = supply(episodes, role, k, self.acting(meta, state, episodes, head))
        return replace(episodes, roles=roles)

    def acting(self, meta: Params, state: State, episodes: Episode, head: str = HEAD) -> Act:
        """The policies of a state, for the steps of trajectories in order; without a state, the meta-parameters'."""
        size = self._learner.backbone.memory
        if not size:
            return lambda inputs: self.act(meta, state, episodes, inputs, head)
        memory: Tensor | None = None

        def act(inputs: Tensor) -> Tensor:
            nonlocal memory
            before = inputs.new_zeros(*inputs.shape[:2], size) if memory is None else memory
            outputs, taps = self._acted(meta, state, episodes, torch.cat((inputs, before), -1), head)
            memory = taps[MEMORY]
            return outputs

        return act

    def act(self, meta: Params, state: State, episodes: Episode, inputs: Tensor, head: str = HEAD) -> Tensor:
        """Outputs [T, B, O] of a state for observations [T, B, ...]; without a state, those of the meta-parameters.

        A policy with a memory takes whole trials [T, B, H, F], or single steps (`Backbone.memory`).
        """
        if state is not None:
            return self.predict(meta, state, episodes, inputs, head=head)
        return self._acted(meta, None, episodes, inputs, head)[0]

    def _acted(self, meta: Params, state: State, episodes: Episode, inputs: Tensor, head: str) -> tuple[Tensor, Params]:
        """What `act` returns, and the outputs of the network's layers."""
        if state is not None:
            return self.layers(meta, state, episodes, inputs, head=head)

        def one(meta: Params, inputs: Tensor) -> tuple[Tensor, Params]:
            buffers = self._segments.buffers_of(meta)
            net = Network(self._learner.backbone, buffers, training=self._training, tapped=True)
            return self._learner.forward(net, self._segments.params_of(meta), inputs, head=head), net.taps

        found: tuple[Tensor, Params] = self._segments.each(one, meta, episodes.num_tasks, inputs)
        return found

    def num_operations(self, meta: Params, episodes: Episode) -> int:
        """Approximate number of tensor operations in the forward pass of all inner steps together."""
        if not ADAPTED & frozenset(self.places):
            return 0
        episodes = self._segments.without_unused_seeds(episodes)
        stages, state = self._segments.stages(episodes), None
        segments = list(self._segments.of_walk(meta, episodes, stages[:2], fuse=self._fuse_start))[:2]
        for segment in segments[:-1]:
            state = EagerOps._run(self, segment.key, segment.function, meta, state, segment.inputs)
        module, _ = trace(segments[-1].function, meta, state, segments[-1].inputs)
        return len(stages) * len(module.graph.nodes)

    def _run(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` of the arguments, which are pytrees of tensors; without an autograd graph."""
        with torch.no_grad():
            return function(*arguments)

    def _after(self, segment: Segment, meta: Params, state: State) -> State:
        return self._run(segment.key, segment.function, meta, state, segment.inputs)

    def _visit_recorded(
        self, segment: Segment, meta: Params, state: State, before: Callable[[], State] | None
    ) -> Visit:
        """The state after a segment, and the segment's pullback.

        The pullback stores the segment's autograd graph, or recomputes it from what `before` gives: `state` again.
        """
        if before is None:
            return Visit(segment.k, *self._run_storing_graph(segment, meta, state))

        def pullback(cotangent: Cotangent) -> tuple[Params, Cotangent]:
            backward = partial(_recompute_and_differentiate, segment.function)
            key = ("backward", *segment.key)
            return self._split(meta, self._run(key, backward, meta, before(), segment.inputs, cotangent))

        return Visit(segment.k, self._after(segment, meta, state), pullback)

    def _run_storing_graph(self, segment: Segment, meta: Params, state: State) -> tuple[State, Pullback]:
        leaves, structure = _as_graph_leaves((meta, state))
        meta_leaves, state_leaves = structure.rebuild(leaves)
        with torch.enable_grad():
            after = segment.function(meta_leaves, state_leaves, segment.inputs)
        outputs = flatten(after)[0]

        return tree_map(_detached, after), lambda cotangent: self._split(meta, derivatives(outputs, leaves, cotangent))

    def _split(self, meta: Params, grads: Cotangent) -> tuple[Params, Cotangent]:
        """Split derivatives by (meta, state) in two; zero ones by meta-parameters are left out, as are buffers."""
        by_meta = zip(meta, grads, strict=False)
        named = {name: grad for name, grad in by_meta if grad is not None and name not in self._segments.buffers}
        return named, grads[len(meta) :]

    def _score(self, meta: Params, state: State, episodes: Episode, at: At) -> tuple[Tensor, Scores]:
        """Loss [T] of the terms at a place, and the scores."""
        terms = terms_at(self._terms, at)

        def loss(meta: Params, state: TaskState | None, task: Episode) -> tuple[Tensor, Metrics, Params]:
            buffers = self._segments.buffers_of(meta) if state is None else state.buffers
            net = self._segments.network(buffers, task, training=self._training)
            fast = None if state is None else state.fast
            losses, metrics = outer_loss(self._learner, net, self._segments.params_of(meta), fast, task, terms)
            return losses, metrics, net.buffers

        losses, metrics, buffers = self._segments.each(loss, meta, episodes.num_tasks, state, episodes)
        return losses, Scores(metrics, buffers)

    def _recomputes(self, stages: Sequence[Stage]) -> bool:
        return self._memory == "flat" or (self._memory == "auto" and len(stages) > MAX_UNROLLED_STEPS)


class AutogradOps(EagerOps):
    """Operations that are part of the caller's autograd graph."""

    @override
    def _run(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _recompute_and_differentiate(
    function: Callable[[Params, State, Any], State], meta: Params, state: State, inputs: Any, cotangent: Cotangent
) -> Cotangent:
    """Vector-Jacobian product of `function` by (meta, state), from a new forward pass."""
    leaves, structure = _as_graph_leaves((meta, state))
    meta, state = structure.rebuild(leaves)
    with torch.enable_grad():
        after = function(meta, state, inputs)
    return derivatives(flatten(after)[0], leaves, cotangent)


def _as_graph_leaves(tree: Any) -> tuple[Tensors, Structure]:
    tensors, structure = flatten(tree)
    return graph_leaves(tensors), structure


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
