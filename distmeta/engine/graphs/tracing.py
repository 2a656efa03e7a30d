"""Trace functions of tensors to FX graphs, derivatives included, and split them into forward and backward graphs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from distmeta.engine.trees import Structure, derivatives, flatten, graph_leaves

ContextFactory = Callable[[], AbstractContextManager[object]]


def trace(
    function: Callable[..., Any], *arguments: Any, context: ContextFactory = nullcontext
) -> tuple[GraphModule, Structure]:
    """Trace `function` to a graph of ATen operations; calls of `grad` and `vmap` inside it become part of the graph.

    Args:
        function: A pure function of pytrees of tensors.
        arguments: Examples; their shapes, types and memory layouts become part of the graph.
        context: Makes the context that the function runs in.

    Returns:
        A graph from the arguments' tensors to the result's tensors, and the structure of the result.
    """
    tensors, structure = flatten(arguments)
    structures: list[Structure] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        with context():
            outputs, result_structure = flatten(function(*structure.rebuild(tensors)))
        structures.append(result_structure)
        return tuple(tensor.detach() for tensor in outputs)

    module = make_fx(flat, tracing_mode="fake")(*tensors)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, structures[-1]


def with_constants_as_inputs(module: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """The graph with one more placeholder for each tensor attribute of the module, and these tensors.

    They are on the device of the first input: numbers of the program are traced on the CPU, and a graph that reads them
    from there waits for the transfer in every call.
    """
    graph, copies, constants = Graph(), dict[Node, Node](), list[Tensor]()
    placeholders = module.graph.find_nodes(op="placeholder")
    for node in placeholders:
        copies[node] = graph.node_copy(node)
    for i, node in enumerate(module.graph.find_nodes(op="get_attr")):
        constants.append(getattr(module, str(node.target)).to(placeholders[0].meta["val"].device))
        copies[node] = graph.placeholder(f"constant_{i}")
        copies[node].meta["val"] = placeholders[0].meta["val"].fake_mode.from_tensor(constants[-1])
    for node in module.graph.nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return GraphModule(module, graph), constants


class ForwardBackward(NamedTuple):
    """A function and its pullback as two graphs.

    Attributes:
        forward: arguments' tensors -> result's tensors, followed by `num_saved` tensors saved for the backward pass.
        backward: saved tensors, cotangents of the differentiable outputs -> derivatives by the inputs with `has_grad`.
        structure: Structure of the result.
        differentiable: Which tensors of the result are floating-point, and so have a cotangent.
        has_grad: Which tensors of the differentiated arguments the result depends on; the others' derivative is zero.
        sources: For each derivative of the backward graph, the cotangents that it depends on, by position.
        num_saved: Number of saved tensors.
    """

    forward: GraphModule
    backward: GraphModule
    structure: Structure
    differentiable: tuple[bool, ...]
    has_grad: tuple[bool, ...]
    sources: tuple[frozenset[int], ...]
    num_saved: int


def trace_forward_backward(
    function: Callable[..., Any],
    differentiated: tuple[Any, ...],
    others: tuple[Any, ...],
    context: ContextFactory = nullcontext,
) -> ForwardBackward:
    """Trace `function(*differentiated, *others)` and its pullback to `differentiated` (see `trace`)."""
    tensors, structure = flatten(differentiated)
    other_tensors, other_structure = flatten(others)
    num_inputs = len(tensors) + len(other_tensors)
    seen: list[tuple[Structure, tuple[bool, ...], tuple[bool, ...]]] = []

    def joint(*flat: Tensor) -> tuple[Tensor, ...]:
        leaves = graph_leaves(flat[: len(tensors)])
        rest = other_structure.rebuild(flat[len(tensors) : num_inputs])
        with context():
            with torch.enable_grad():
                outputs, result_structure = flatten(function(*structure.rebuild(leaves), *rest))
            cotangents = iter(flat[num_inputs:])
            differentiable = tuple(output.is_floating_point() for output in outputs)
            grads = derivatives(outputs, leaves, [next(cotangents) if flag else None for flag in differentiable])
        seen.append((result_structure, differentiable, tuple(grad is not None for grad in grads)))
        return (*(output.detach() for output in outputs), *(grad.detach() for grad in grads if grad is not None))

    with torch.no_grad():
        example = flatten(function(*differentiated, *others))[0]
    zeros = [torch.zeros_like(output) for output in example if output.is_floating_point()]
    module = make_fx(joint, tracing_mode="fake")(*tensors, *other_tensors, *zeros)
    module.graph.eliminate_dead_code()
    forward, backward, num_saved = _partition(module, num_inputs, len(example))
    return ForwardBackward(forward, backward, *seen[-1], _sources(module, num_inputs, len(example)), num_saved)


def _sources(module: GraphModule, num_arguments: int, num_outputs: int) -> tuple[frozenset[int], ...]:
    """For each derivative of a joint graph, the positions of the cotangents that it depends on."""
    nodes = list(module.graph.nodes)
    cotangents = [node for node in nodes if node.op == "placeholder"][num_arguments:]
    known = {node: frozenset((position,)) for position, node in enumerate(cotangents)}
    for node in nodes[:-1]:
        parts = [known[source] for source in node.all_input_nodes if source in known]
        if parts:
            known[node] = known.get(node, frozenset[int]()).union(*parts)
    results = nodes[-1].args[0][num_outputs:]
    return tuple(known.get(node, frozenset[int]()) for node in results)


def _partition(module: GraphModule, num_arguments: int, num_outputs: int) -> tuple[GraphModule, GraphModule, int]:
    """Partition a joint graph: nodes that depend on a cotangent go to the backward graph, all others to the forward.

    Values of the forward graph that the backward graph reads are saved.
    """
    nodes = list(module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    results = list(nodes[-1].args[0])
    backward_nodes = set(placeholders[num_arguments:])
    for node in nodes[:-1]:
        if any(source in backward_nodes for source in node.all_input_nodes):
            backward_nodes.add(node)
    grads = {node for node in results[num_outputs:] if isinstance(node, Node)}
    saved = [
        node
        for node in nodes[:-1]
        if node not in backward_nodes
        and (node in grads or any(user in backward_nodes for user in node.users))
        and node.op != "get_attr"
    ]
    constants = [node for node in nodes if node.op == "get_attr"]
    body = [node for node in nodes[:-1] if node not in backward_nodes and node.op != "placeholder"]
    forward = _extract(module, placeholders[:num_arguments], body, [*results[:num_outputs], *saved])
    body = [node for node in nodes[:-1] if node in backward_nodes and node.op != "placeholder"]
    inputs = [*saved, *placeholders[num_arguments:]]
    backward = _extract(module, inputs, [*constants, *body], results[num_outputs:])
    return forward, backward, len(saved)


def _extract(module: GraphModule, inputs: list[Node], body: list[Node], outputs: list[Any]) -> GraphModule:
    """A module of some of a graph's nodes, with placeholders for `inputs`."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(f"in_{len(copies)}")
        copies[node].meta = dict(node.meta)
    for node in body:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)
