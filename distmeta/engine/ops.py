"""The operations of estimators, run by torch as they come: what every other way of running them is tested against.

Recorded parts of an adaptation either keep the graph of their computation until it is walked back (`unrolled`), or keep
only the state they started from and compute that one part's graph again on the way back (`flat`): an adjoint sweep,
whose memory does not grow with the number of inner steps but for the states. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from distmeta.core.types import Batch, Episode, Params
from distmeta.engine.graphs.tracing import trace
from distmeta.engine.lifts import LIFTS
from distmeta.engine.trees import Structure, derivatives, flatten, recording
from distmeta.methods.estimators.base import Cotangent, Metrics, Pullback
from distmeta.methods.estimators.outer_loss import outer_loss
from distmeta.methods.learners.base import Fast, Learner

Tensors = tuple[Tensor, ...]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of adaptation.

    Attributes:
        key: Parts with equal keys run the same operations.
        function: (meta, state before, inputs) -> state after; pure.
        inputs: What else it reads.
    """

    key: Key
    function: Callable[[Params, Fast, Any], Fast]
    inputs: Any


class EagerOps:
    """See `TaskOps`; `_run` and `_keep` are what other implementations replace.

    Args:
        learner: Whose operations.
        lift: `loop` or `vmap` (see `LIFTS`).
        flat: Compute graphs again instead of keeping them.
    """

    def __init__(self, learner: Learner, lift: str, *, flat: bool = False) -> None:
        self._learner, self._lift, self._flat = learner, LIFTS[lift], flat
        self.open_together = lift == "vmap"
        self.num_steps = learner.num_steps

    def start(self, meta: Params, episodes: Episode) -> tuple[Fast, Pullback]:
        """See `TaskOps`."""
        return self._record(self._begin(episodes.support), meta, None)

    def adapt(self, meta: Params, episodes: Episode) -> Fast:
        """See `TaskOps`."""
        fast: Fast = None
        for part in self._parts(episodes.support):
            fast = self._run(part.key, part.function, meta, fast, part.inputs)
        return fast

    def adapt_recorded(self, meta: Params, episodes: Episode) -> tuple[Fast, list[Pullback]]:
        """See `TaskOps`."""
        fast: Fast = None
        pullbacks = []
        for part in self._parts(episodes.support):
            fast, pullback = self._record(part, meta, fast)
            pullbacks.append(pullback)
        return fast, pullbacks

    def score(self, meta: Params, fast: Fast, episodes: Episode) -> Metrics:
        """See `TaskOps`."""

        def score(meta: Params, fast: Fast, tensors: Tensors) -> Metrics:
            return self._loss(meta, fast, episodes.rebuild(tensors))[1]

        found: Metrics = self._run(("score", episodes.form), score, meta, fast, episodes.tensors())
        return found

    def score_grad(self, meta: Params, fast: Fast, episodes: Episode) -> tuple[Params, Cotangent, Metrics]:
        """See `TaskOps`."""

        def score_grad(meta: Params, fast: Fast, tensors: Tensors) -> tuple[Cotangent, Metrics]:
            leaves, structure = _recording((meta, fast))
            meta, fast = structure.rebuild(leaves)
            with torch.enable_grad():
                loss, metrics = self._loss(meta, fast, episodes.rebuild(tensors))
            return derivatives([loss], leaves, [torch.ones_like(loss)]), metrics

        grads, metrics = self._run(("score_grad", episodes.form), score_grad, meta, fast, episodes.tensors())
        return *split(meta, grads), metrics

    def displacement(self, meta: Params, fast: Fast) -> Params:
        """See `TaskOps`."""

        def displacement(meta: Params, fast: Fast) -> Params:
            moved = self._lift(lambda fast: self._learner.displacement(meta, fast))(fast)
            return {name: tensor.sum(0) for name, tensor in moved.items()}

        found: Params = self._run(("displacement",), displacement, meta, fast)
        return found

    def adaptation_size(self, meta: Params, episodes: Episode) -> int:
        """About how many tensor operations all inner steps take together, forward."""
        parts, fast = self._parts(episodes.support), None
        steps = [part for part, _ in zip(parts, range(2), strict=False)]
        for part in steps[:-1]:
            fast = EagerOps._run(self, part.key, part.function, meta, fast, part.inputs)
        module, _ = trace(steps[-1].function, meta, fast, steps[-1].inputs)
        return self.num_steps * len(module.graph.nodes)

    def _run(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` of the arguments, which are nests of tensors."""
        with torch.no_grad():
            return function(*arguments)

    def _keep(self, part: Part, meta: Params, fast: Fast) -> tuple[Fast, Pullback]:
        """The state after a part, and a pullback that holds on to what it needs."""
        leaves, structure = _recording((meta, fast))
        meta_leaves, fast_leaves = structure.rebuild(leaves)
        with torch.enable_grad():
            after = part.function(meta_leaves, fast_leaves, part.inputs)
        outputs = flatten(after)[0]
        return tree_map(_detached, after), lambda cotangent: split(meta, derivatives(outputs, leaves, cotangent))

    def _record(self, part: Part, meta: Params, fast: Fast) -> tuple[Fast, Pullback]:
        if not self._flat:
            return self._keep(part, meta, fast)

        def pullback(cotangent: Cotangent) -> tuple[Params, Cotangent]:
            back = partial(_vjp, part.function)
            return split(meta, self._run(("back", *part.key), back, meta, fast, part.inputs, cotangent))

        return self._run(part.key, part.function, meta, fast, part.inputs), pullback

    def _loss(self, meta: Params, fast: Fast, episodes: Episode) -> tuple[Tensor, Metrics]:
        """The tasks' query losses and metrics, summed."""
        loss = self._lift(lambda fast, episode: outer_loss(self._learner, meta, fast, episode))
        losses, metrics = loss(fast, episodes)
        return losses.sum(), {name: values.sum() for name, values in metrics.items()}

    def _begin(self, support: Batch) -> Part:
        def begin(meta: Params, _: Fast, inputs: Tensors) -> Fast:
            return self._lift(lambda support: self._learner.start(meta, support))(support.rebuild(inputs))

        return Part(("start",), begin, support.tensors())

    def _parts(self, support: Batch) -> Iterator[Part]:
        """Adaptation cut into parts.

        With `open_together` the first step goes with the start: weights that all tasks start from are shared in it,
        and turn into each task's own with its result.
        """
        together = self.open_together and self.num_steps > 0
        if not together:
            yield self._begin(support)
        for k in range(self.num_steps):
            stage = self._learner.stage(k, support.inputs.shape[1])
            selected, kind = stage.select(support, axis=1), stage.kind
            scalars = torch.tensor(stage.scalars, dtype=support.inputs.dtype, device=support.inputs.device)
            if k == 0 and together:
                inputs: Any = (support.tensors(), selected.tensors(), scalars)
                yield Part(("open", kind), partial(self._open, support, selected, kind), inputs)
            else:
                yield Part(("step", kind), partial(self._step, selected, kind), (selected.tensors(), scalars))

    def _open(self, support: Batch, selected: Batch, kind: int, meta: Params, _: Fast, inputs: Any) -> Fast:
        def one(support: Batch, selected: Batch) -> Fast:
            return self._learner.advance(meta, self._learner.start(meta, support), selected, kind, scalars)

        all_tensors, selected_tensors, scalars = inputs
        return self._lift(one)(support.rebuild(all_tensors), selected.rebuild(selected_tensors))

    def _step(self, selected: Batch, kind: int, meta: Params, fast: Fast, inputs: Any) -> Fast:
        def one(fast: Fast, selected: Batch) -> Fast:
            return self._learner.advance(meta, fast, selected, kind, scalars)

        tensors, scalars = inputs
        return self._lift(one)(fast, selected.rebuild(tensors))


def split(meta: Params, grads: Cotangent) -> tuple[Params, Cotangent]:
    """Derivatives by (meta-parameters, state) apart; the zero ones of the meta-parameters are left out."""
    by_meta = zip(meta, grads, strict=False)
    return {name: grad for name, grad in by_meta if grad is not None}, grads[len(meta) :]


def _vjp(
    function: Callable[[Params, Fast, Any], Fast], meta: Params, fast: Fast, inputs: Any, cotangent: Cotangent
) -> Cotangent:
    """Derivatives by (meta, fast), the function's graph being computed for it."""
    leaves, structure = _recording((meta, fast))
    meta, fast = structure.rebuild(leaves)
    with torch.enable_grad():
        after = function(meta, fast, inputs)
    return derivatives(flatten(after)[0], leaves, cotangent)


def _recording(tree: Any) -> tuple[Tensors, Structure]:
    tensors, structure = flatten(tree)
    return recording(tensors), structure


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
