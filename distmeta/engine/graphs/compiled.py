"""Task operations and estimators as compiled graphs.

A short estimate becomes one graph. Where that graph would be long (many inner steps of a deep network), each operation
becomes a graph of its own (`CompiledOps`), so that compiling takes no longer for more inner steps. With `engine.memory
= unrolled`, a segment of adaptation then becomes a forward graph and a backward graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_map
from typing_extensions import override

from distmeta.core.types import Episode, Params
from distmeta.engine.graphs.inductor import InductorGraph
from distmeta.engine.graphs.native import NativeGraph
from distmeta.engine.graphs.tracing import ForwardBackward, trace, trace_forward_backward
from distmeta.engine.ops import EagerOps, Memory
from distmeta.engine.precision import Matmul, products
from distmeta.engine.segments import Key, Segment
from distmeta.engine.trees import Structure, flatten
from distmeta.methods.estimators.base import Cotangent, Estimate, Estimator, Moment, Pullback, State, TaskOps
from distmeta.methods.learners.base import Learner
from distmeta.methods.terms import OuterTerm

MAX_OPERATIONS_OF_ONE_GRAPH = 700
"""An estimate whose inner steps have more operations together is compiled operation by operation."""
_PRODUCTS = frozenset(("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.convolution", "aten.mv", "aten.dot"))


Graph = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class GraphCache:
    """Compiled functions, by key and by the shapes of their arguments.

    The first call with new shapes compiles. It must not overlap with any other call in the process.

    Args:
        lanes: Maximum number of concurrent calls.
        matmul: How matrix products are computed.
    """

    def __init__(self, lanes: int, matmul: Matmul) -> None:
        self._lanes, self._precision = lanes, partial(products, matmul)
        self._entries: dict[Key, Any] = {}

    def call(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`, compiled."""
        tensors, key = self._with_shapes(key, arguments)
        graph, structure = self._get_or_make(key, lambda: self.compile(function, *arguments))
        return structure.rebuild(graph(tensors))

    def call_recorded(
        self, key: Key, function: Callable[..., Any], differentiated: tuple[Any, ...], others: tuple[Any, ...]
    ) -> tuple[Any, Callable[[Cotangent], Cotangent]]:
        """`function(*differentiated, *others)`, compiled, and its pullback to the tensors of `differentiated`."""
        tensors, key = self._with_shapes(("recorded", *key), (*differentiated, *others))
        make = partial(self._compile_forward_backward, function, differentiated, others)
        forward, backward, graphs = self._get_or_make(key, make)
        results = forward(tensors)
        num_outputs = len(results) - graphs.num_saved
        outputs, saved = results[:num_outputs], results[num_outputs:]

        def pullback(cotangents: Cotangent) -> Cotangent:
            pairs = zip(outputs, cotangents, graphs.differentiable, strict=True)
            given = [(output, cotangent) for output, cotangent, flag in pairs if flag]
            nonzero = {position for position, (_, cotangent) in enumerate(given) if cotangent is not None}
            dense = [torch.zeros_like(output) if cotangent is None else cotangent for output, cotangent in given]
            # What depends on zero cotangents alone is zero, and None: as it is without a compiled graph.
            named = zip(backward([*saved, *dense]), graphs.sources, strict=True)
            grads = iter([grad if sources & nonzero else None for grad, sources in named])
            return tuple(next(grads) if flag else None for flag in graphs.has_grad)

        return graphs.structure.rebuild(outputs), pullback

    def compile(self, function: Callable[..., Any], *arguments: Any) -> tuple[Graph, Structure]:
        """A compiled graph from the arguments' tensors to the result's tensors, and the structure of the result."""
        module, structure = trace(_with_canonical_result(function), *arguments, context=self._precision)
        return self._compile_module(module), structure

    def _compile_forward_backward(
        self, function: Callable[..., Any], differentiated: tuple[Any, ...], others: tuple[Any, ...]
    ) -> tuple[Graph, Graph, ForwardBackward]:
        graphs = trace_forward_backward(_with_canonical_result(function), differentiated, others, self._precision)
        return self._compile_module(graphs.forward), self._compile_module(graphs.backward), graphs

    def _compile_module(self, module: GraphModule) -> Graph:
        """A graph without a matrix product or convolution runs eagerly: it is not worth compiling."""
        names = {str(node.target).rsplit(".", 1)[0] for node in module.graph.nodes if node.op == "call_function"}
        if names & _PRODUCTS or any(name.startswith("aten.convolution") for name in names):
            on_cpu = all(node.meta["val"].device.type == "cpu" for node in module.graph.find_nodes(op="placeholder"))
            return NativeGraph(module, self._lanes) if on_cpu else InductorGraph(module)
        return lambda tensors: module(*tensors)

    def _with_shapes(self, key: Key, arguments: Any) -> tuple[tuple[Tensor, ...], Key]:
        """The tensors of the arguments, and the key extended by their structure, shapes and types.

        Leaves that are no tensors are constants of a graph, so they belong to its key.
        """
        tensors, structure = flatten(arguments)
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        return tensors, (*key, str(structure.spec), structure.is_tensor, repr(structure.others), shapes)

    def _get_or_make(self, key: Key, make: Callable[[], Any]) -> Any:
        if key not in self._entries:
            self._entries[key] = make()
        return self._entries[key]


class CompiledOps(EagerOps):
    """Task operations with one graph for each kind of operation.

    Args:
        learner, lift, terms, memory, training: See `EagerOps`.
        graphs: Where compiled graphs are kept.
    """

    def __init__(
        self,
        learner: Learner,
        lift: str,
        terms: Sequence[OuterTerm],
        memory: Memory,
        graphs: GraphCache,
        *,
        training: bool = True,
    ) -> None:
        super().__init__(learner, lift, terms, memory, training=training)
        self._graphs = graphs

    @override
    def _run(self, key: Key, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._graphs.call(key, function, *arguments)

    @override
    def _run_storing_graph(self, segment: Segment, meta: Params, state: State) -> tuple[State, Pullback]:
        after, pullback = self._graphs.call_recorded(segment.key, segment.function, (meta, state), (segment.inputs,))
        return after, lambda cotangent: self._split(meta, pullback(cotangent))


class CompiledEstimator(Estimator):
    """An estimator as compiled code: one graph where that is short, else one graph for each operation.

    Args:
        estimator: The estimator.
        eager_ops: Operations that are traced into one graph, which always stores what its backward pass needs.
        compiled_ops: Operations that are graphs of their own.
        graphs: Where compiled graphs are kept.
    """

    def __init__(
        self, estimator: Estimator, eager_ops: EagerOps, compiled_ops: CompiledOps, graphs: GraphCache
    ) -> None:
        self._estimator, self._graphs = estimator, graphs
        self._eager_ops, self._compiled_ops = eager_ops, compiled_ops
        self._whole: dict[Key, tuple[Graph, Structure] | None] = {}

    @override
    def form(self, moment: Moment) -> Hashable:
        return self._estimator.form(moment)

    @override
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        """As `Estimator.estimate`; `ops` is ignored, since the estimator has compiled operations of its own."""
        tensors = episodes.tensors()
        key = (episodes.form, *(tensor.shape for tensor in tensors))
        if key not in self._whole:
            self._whole[key] = self._compile_whole(meta, episodes) if self._is_short(meta, episodes) else None
        whole = self._whole[key]
        if whole is None:
            return self._estimator.estimate(self._compiled_ops, meta, episodes, moment)
        graph, structure = whole
        estimate: Estimate = structure.rebuild(graph([*meta.values(), *tensors]))
        return estimate

    def _is_short(self, meta: Params, episodes: Episode) -> bool:
        if self._estimator.reads_moment:
            return False
        return self._eager_ops.num_operations(meta, episodes) <= MAX_OPERATIONS_OF_ONE_GRAPH

    def _compile_whole(self, meta: Params, episodes: Episode) -> tuple[Graph, Structure]:
        def estimate(meta: Params, tensors: tuple[Tensor, ...]) -> Estimate:
            return self._estimator.estimate(self._eager_ops, meta, episodes.rebuild(tensors), Moment())

        return self._graphs.compile(estimate, meta, episodes.tensors())


def canonical(tree: Any) -> Any:
    """The pytree with every tensor in the memory layout that graphs exchange.

    Images and filters are channels-last, with or without a task axis of size 1; all other tensors are contiguous.
    """
    return tree_map(lambda leaf: _canonical(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _canonical(tensor: Tensor) -> Tensor:
    if tensor.dim() == 5 and tensor.shape[0] == 1:
        return tensor.squeeze(0).contiguous(memory_format=torch.channels_last).unsqueeze(0)
    return tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def _with_canonical_result(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: canonical(function(*arguments))
