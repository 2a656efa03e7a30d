"""The operations of estimators as native code.

A short estimate becomes one graph. Where that would be long (many inner steps of a deep network), each operation
becomes one (`CompiledOps`): compiling takes no longer for more inner steps, and recorded parts are two
graphs, a way there and a way back with what the one saves for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_map

from distmeta.core.types import Episode, Params
from distmeta.engine.graphs.native import NativeGraph
from distmeta.engine.graphs.resident import ResidentGraph
from distmeta.engine.graphs.tracing import trace, trace_pair
from distmeta.engine.ops import EagerOps, Key, Part, split
from distmeta.engine.precision import Matmul, products
from distmeta.engine.trees import Structure, flatten
from distmeta.methods.estimators.base import Cotangent, Estimator, Metrics, Pullback, TaskOps
from distmeta.methods.learners.base import Fast, Learner

SHORT = 700
"""Operations of all inner steps together up to which an estimate becomes one graph."""
_PRODUCTS = frozenset(("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.convolution", "aten.mv", "aten.dot"))


Graph = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class GraphCache:
    """Compiled functions by key and by the shapes that they are called with.

    The first call with new shapes compiles, and must have the process to itself.

    Args:
        lanes: Calls at a time.
        matmul: How products are computed.
    """

    def __init__(self, lanes: int, matmul: Matmul) -> None:
        self._lanes, self._around = lanes, partial(products, matmul)
        self._found: dict[Key, Any] = {}

    def call(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function` of the arguments, compiled on the first call with such shapes."""
        tensors, key = self._key(key, arguments)
        graph, structure = self._made(key, lambda: self.compiled(function, *arguments))
        return structure.rebuild(graph(tensors))

    def call_recorded(
        self, key: Key, function: Callable[..., Any], differentiated: tuple[Any, ...], rest: tuple[Any, ...]
    ) -> tuple[Any, Callable[[Cotangent], Cotangent]]:
        """`function(*differentiated, *rest)`, and its pullback to the tensors of `differentiated`."""
        tensors, key = self._key(("recorded", *key), (*differentiated, *rest))
        there, back, pair = self._made(key, lambda: self._two(function, differentiated, rest))
        found = there(tensors)
        cut = len(found) - pair.num_saved
        outputs, saved = found[:cut], found[cut:]

        def pullback(cotangents: Cotangent) -> Cotangent:
            given = [
                torch.zeros_like(out) if cotangent is None else cotangent
                for out, cotangent, here in zip(outputs, cotangents, pair.smooth, strict=True)
                if here
            ]
            grads = iter(back([*saved, *given]))
            return tuple(next(grads) if here else None for here in pair.reached)

        return pair.structure.rebuild(outputs), pullback

    def _key(self, key: Key, arguments: Any) -> tuple[tuple[Tensor, ...], Key]:
        tensors, form = flatten(arguments)
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        return tensors, (*key, str(form.spec), form.is_tensor, shapes)

    def _made(self, key: Key, make: Callable[[], Any]) -> Any:
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]

    def compiled(self, function: Callable[..., Any], *arguments: Any) -> tuple[Graph, Structure]:
        """`function` as a graph from the arguments' tensors to the result's, and the structure of the result."""
        module, structure = trace(lambda *given: canonical(function(*given)), *arguments, around=self._around)
        return self._compiled(module), structure

    def _two(self, function: Callable[..., Any], differentiated: tuple[Any, ...], rest: tuple[Any, ...]) -> Any:
        pair = trace_pair(lambda *given: canonical(function(*given)), differentiated, rest, self._around)
        return self._compiled(pair.there), self._compiled(pair.back), pair

    def _compiled(self, module: GraphModule) -> Graph:
        """Native code where it is worth the compiling: a graph without a single product runs as it is."""
        names = {str(node.target).rsplit(".", 1)[0] for node in module.graph.nodes if node.op == "call_function"}
        if names & _PRODUCTS or any(name.startswith("aten.convolution") for name in names):
            on_cpu = all(node.meta["val"].device.type == "cpu" for node in module.graph.find_nodes(op="placeholder"))
            return NativeGraph(module, self._lanes) if on_cpu else ResidentGraph(module)
        return lambda tensors: module(*tensors)


class CompiledOps(EagerOps):
    """See `TaskOps`: a graph for each kind of operation.

    Args:
        learner: Whose operations.
        lift: `loop` or `vmap`.
        flat: Compute a part again on the way back instead of saving what it needs.
        graphs: Where compiled graphs are kept.
    """

    def __init__(self, learner: Learner, lift: str, graphs: GraphCache, *, flat: bool = False) -> None:
        super().__init__(learner, lift, flat=flat)
        self._graphs = graphs

    def _run(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._graphs.call(key, function, *arguments)

    def _keep(self, part: Part, meta: Params, fast: Fast) -> tuple[Fast, Pullback]:
        after, pullback = self._graphs.call_recorded(part.key, part.function, (meta, fast), (part.inputs,))
        return after, lambda cotangent: split(meta, pullback(cotangent))


class CompiledEstimator(Estimator):
    """An estimator whose work on a chunk is native code: one graph where that is short, else one an operation.

    Args:
        learner, estimator: The method.
        lift: `loop` or `vmap`.
        lanes: Chunks in flight.
        flat: See `CompiledOps`.
        matmul: How products are computed.
    """

    def __init__(
        self, learner: Learner, estimator: Estimator, lift: str, lanes: int, *, flat: bool, matmul: Matmul
    ) -> None:
        self._estimator, self._graphs = estimator, GraphCache(lanes, matmul)
        self._eager, self._compiled = EagerOps(learner, lift), CompiledOps(learner, lift, self._graphs, flat=flat)
        self._whole: dict[Key, tuple[Graph, Structure] | None] = {}

    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode) -> tuple[Params, Metrics]:
        """See `Estimator.estimate`; `ops` is not used."""
        tensors = episodes.tensors()
        key = (episodes.form, *(tensor.shape for tensor in tensors))
        if key not in self._whole:
            is_short = self._eager.adaptation_size(meta, episodes) <= SHORT
            self._whole[key] = self._one_graph(meta, episodes) if is_short else None
        whole = self._whole[key]
        if whole is None:
            return self._estimator.estimate(self._compiled, meta, episodes)
        graph, structure = whole
        found: tuple[Params, Metrics] = structure.rebuild(graph([*meta.values(), *tensors]))
        return found

    def _one_graph(self, meta: Params, episodes: Episode) -> tuple[Graph, Structure]:
        def whole(meta: Params, tensors: tuple[Tensor, ...]) -> tuple[Params, Metrics]:
            return self._estimator.estimate(self._eager, meta, episodes.rebuild(tensors))

        return self._graphs.compiled(whole, meta, episodes.tensors())


def canonical(tree: Any) -> Any:
    """The nest with every tensor in the layout that graphs exchange: images and filters channels-last, else plain."""
    return tree_map(lambda leaf: _canonical(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _canonical(tensor: Tensor) -> Tensor:
    if tensor.dim() == 5 and tensor.shape[0] == 1:
        return tensor.squeeze(0).contiguous(memory_format=torch.channels_last).unsqueeze(0)
    return tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)
