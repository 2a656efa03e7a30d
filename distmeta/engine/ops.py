"""Eager task operations: the implementation of `TaskOps` that every other one is tested against.

Adaptation runs as segments: the start, then one segment for each inner step. The pullback of a segment either stores
the segment's autograd graph until the backward pass (`engine.memory = unrolled`), or stores only the state before the
segment and recomputes its graph in the backward pass (`flat`). The latter is an adjoint sweep: its memory grows with
the number of inner steps only by the states. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from typing_extensions import override

from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.graphs.tracing import trace
from distmeta.engine.lifts import LIFTS
from distmeta.engine.trees import Structure, derivatives, flatten, graph_leaves
from distmeta.methods.estimators.base import Cotangent, Metrics, Pullback, TaskOps
from distmeta.methods.estimators.outer_loss import outer_loss
from distmeta.methods.learners.base import Fast, Learner

Tensors = tuple[Tensor, ...]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Segment:
    """A segment of adaptation: the start, an inner step, or both together.

    Attributes:
        key: Segments with equal keys run the same operations.
        function: (meta, state before, inputs) -> state after; pure.
        inputs: A pytree of the other tensors that it reads.
    """

    key: Key
    function: Callable[[Params, Fast, Any], Fast]
    inputs: Any


class EagerOps(TaskOps):
    """Runs operations eagerly. Other implementations override `_run` and `_run_storing_graph`.

    Args:
        learner: Whose operations.
        lift: `loop` or `vmap` (see `distmeta.engine.lifts`).
        recompute: Recompute each segment in the backward pass instead of storing its autograd graph.
    """

    def __init__(self, learner: Learner, lift: str, *, recompute: bool = False) -> None:
        self._learner, self._lift, self._recompute = learner, LIFTS[lift], recompute
        # Under vmap, weights that all tasks start from stay unbatched in the first step; its result is batched.
        self._fuse_start = lift == "vmap"
        self.num_steps = learner.num_steps

    @override
    def start(self, meta: Params, episodes: Episode) -> tuple[Fast, Pullback]:
        return self._run_with_pullback(self._start_segment(episodes.support), meta, None)

    @override
    def adapt(self, meta: Params, episodes: Episode) -> Fast:
        fast: Fast = None
        for segment in self._segments(episodes.support):
            fast = self._run(segment.key, segment.function, meta, fast, segment.inputs)
        return fast

    @override
    def adapt_recorded(self, meta: Params, episodes: Episode) -> tuple[Fast, list[Pullback]]:
        fast: Fast = None
        pullbacks = []
        for segment in self._segments(episodes.support):
            fast, pullback = self._run_with_pullback(segment, meta, fast)
            pullbacks.append(pullback)
        return fast, pullbacks

    @override
    def score(self, meta: Params, fast: Fast, episodes: Episode) -> Metrics:
        def score(meta: Params, fast: Fast, tensors: Tensors) -> Metrics:
            return self._loss(meta, fast, episodes.rebuild(tensors))[1]

        metrics: Metrics = self._run(("score", episodes.form), score, meta, fast, episodes.tensors())
        return metrics

    @override
    def score_grad(self, meta: Params, fast: Fast, episodes: Episode) -> tuple[Params, Cotangent, Metrics]:
        def score_grad(meta: Params, fast: Fast, tensors: Tensors) -> tuple[Cotangent, Metrics]:
            leaves, structure = _as_graph_leaves((meta, fast))
            meta, fast = structure.rebuild(leaves)
            with torch.enable_grad():
                loss, metrics = self._loss(meta, fast, episodes.rebuild(tensors))
            return derivatives([loss], leaves, [torch.ones_like(loss)]), metrics

        grads, metrics = self._run(("score_grad", episodes.form), score_grad, meta, fast, episodes.tensors())
        return *split_grads(meta, grads), metrics

    @override
    def displacement(self, meta: Params, fast: Fast) -> Params:
        def displacement(meta: Params, fast: Fast) -> Params:
            moved = self._lift(lambda fast: self._learner.displacement(meta, fast))(fast)
            return {name: tensor.sum(0) for name, tensor in moved.items()}

        total: Params = self._run(("displacement",), displacement, meta, fast)
        return total

    def num_operations(self, meta: Params, episodes: Episode) -> int:
        """Approximate number of tensor operations in the forward pass of all inner steps together."""
        segments, fast = self._segments(episodes.support), None
        first_two = [segment for segment, _ in zip(segments, range(2), strict=False)]
        for segment in first_two[:-1]:
            fast = EagerOps._run(self, segment.key, segment.function, meta, fast, segment.inputs)
        module, _ = trace(first_two[-1].function, meta, fast, first_two[-1].inputs)
        return self.num_steps * len(module.graph.nodes)

    def _run(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` of the arguments, which are pytrees of tensors; without an autograd graph."""
        with torch.no_grad():
            return function(*arguments)

    def _run_with_pullback(self, segment: Segment, meta: Params, fast: Fast) -> tuple[Fast, Pullback]:
        """The state after a segment, and the segment's pullback."""
        if not self._recompute:
            return self._run_storing_graph(segment, meta, fast)

        def pullback(cotangent: Cotangent) -> tuple[Params, Cotangent]:
            backward = partial(_recompute_and_differentiate, segment.function)
            key = ("backward", *segment.key)
            return split_grads(meta, self._run(key, backward, meta, fast, segment.inputs, cotangent))

        return self._run(segment.key, segment.function, meta, fast, segment.inputs), pullback

    def _run_storing_graph(self, segment: Segment, meta: Params, fast: Fast) -> tuple[Fast, Pullback]:
        leaves, structure = _as_graph_leaves((meta, fast))
        meta_leaves, fast_leaves = structure.rebuild(leaves)
        with torch.enable_grad():
            after = segment.function(meta_leaves, fast_leaves, segment.inputs)
        outputs = flatten(after)[0]
        return tree_map(_detached, after), lambda cotangent: split_grads(meta, derivatives(outputs, leaves, cotangent))

    def _loss(self, meta: Params, fast: Fast, episodes: Episode) -> tuple[Tensor, Metrics]:
        """Query loss and metrics, summed over the tasks."""
        loss = self._lift(lambda fast, episode: outer_loss(self._learner, meta, fast, episode))
        losses, metrics = loss(fast, episodes)
        return losses.sum(), {name: values.sum() for name, values in metrics.items()}

    def _segments(self, support: Batch) -> Iterator[Segment]:
        """The segments of adaptation in the order in which they run."""
        fuse_start = self._fuse_start and self.num_steps > 0
        if not fuse_start:
            yield self._start_segment(support)
        for k in range(self.num_steps):
            stage = self._learner.stage(k, support.inputs.shape[1])
            selected, kind = stage.select(support, axis=1), stage.kind
            scalars = torch.tensor(stage.scalars, dtype=support.inputs.dtype, device=support.inputs.device)
            if k == 0 and fuse_start:
                inputs: Any = (support.tensors(), selected.tensors(), scalars)
                yield Segment(("start_and_step", kind), partial(self._start_and_step, support, selected, kind), inputs)
            else:
                yield Segment(("step", kind), partial(self._step, selected, kind), (selected.tensors(), scalars))

    def _start_segment(self, support: Batch) -> Segment:
        def start(meta: Params, _: Fast, inputs: Tensors) -> Fast:
            return self._lift(lambda support: self._learner.start(meta, support))(support.rebuild(inputs))

        return Segment(("start",), start, support.tensors())

    def _step(self, selected: Batch, kind: int, meta: Params, fast: Fast, inputs: Any) -> Fast:
        """One inner step; `inputs` are the tensors of the support examples `selected`, and the stage's scalars."""

        def step(fast: Fast, selected: Batch) -> Fast:
            return self._learner.advance(meta, fast, selected, kind, scalars)

        tensors, scalars = inputs
        return self._lift(step)(fast, selected.rebuild(tensors))

    def _start_and_step(self, support: Batch, selected: Batch, kind: int, meta: Params, _: Fast, inputs: Any) -> Fast:
        """The start and the first inner step."""

        def start_and_step(support: Batch, selected: Batch) -> Fast:
            return self._learner.advance(meta, self._learner.start(meta, support), selected, kind, scalars)

        support_tensors, selected_tensors, scalars = inputs
        return self._lift(start_and_step)(support.rebuild(support_tensors), selected.rebuild(selected_tensors))


def split_grads(meta: Params, grads: Cotangent) -> tuple[Params, Cotangent]:
    """Split derivatives by (meta, state) in two; zero ones by meta-parameters are left out."""
    by_meta = zip(meta, grads, strict=False)
    return {name: grad for name, grad in by_meta if grad is not None}, grads[len(meta) :]


def _recompute_and_differentiate(
    function: Callable[[Params, Fast, Any], Fast], meta: Params, fast: Fast, inputs: Any, cotangent: Cotangent
) -> Cotangent:
    """Vector-Jacobian product of `function` by (meta, fast), from a new forward pass."""
    leaves, structure = _as_graph_leaves((meta, fast))
    meta, fast = structure.rebuild(leaves)
    with torch.enable_grad():
        after = function(meta, fast, inputs)
    return derivatives(flatten(after)[0], leaves, cotangent)


def _as_graph_leaves(tree: Any) -> tuple[Tensors, Structure]:
    tensors, structure = flatten(tree)
    return graph_leaves(tensors), structure


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
