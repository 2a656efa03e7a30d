"""Functions of tensors as graphs of operations, derivatives included; graphs cut in a way there and a way back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from distmeta.engine.trees import Structure, derivatives, flatten, recording

Around = Callable[[], AbstractContextManager[object]]


def trace(function: Callable[..., Any], *arguments: Any, around: Around = nullcontext) -> tuple[GraphModule, Structure]:
    """Record what `function` does, whatever differentiation and batching it asks for inside.

    Args:
        function: A pure function of nests of tensors.
        arguments: Examples; shapes, types and memory layout become part of the graph.
        around: A context that the function is to run in.

    Returns:
        A graph from the arguments' tensors to the result's, and the structure of the result.
    """
    tensors, structure = flatten(arguments)
    shape: list[Structure] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        with around():
            found, form = flatten(function(*structure.rebuild(tensors)))
        shape.append(form)
        return tuple(tensor.detach() for tensor in found)

    module = make_fx(flat, tracing_mode="fake")(*tensors)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, shape[-1]


def with_constants_as_inputs(module: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """The graph with a further placeholder for each tensor that it holds, and these tensors."""
    graph, copies, constants = Graph(), dict[Node, Node](), list[Tensor]()
    placeholders = module.graph.find_nodes(op="placeholder")
    for node in placeholders:
        copies[node] = graph.node_copy(node)
    for i, node in enumerate(module.graph.find_nodes(op="get_attr")):
        constants.append(getattr(module, str(node.target)))
        copies[node] = graph.placeholder(f"constant_{i}")
        copies[node].meta["val"] = placeholders[0].meta["val"].fake_mode.from_tensor(constants[-1])
    for node in module.graph.nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return GraphModule(module, graph), constants


class Pair(NamedTuple):
    """A function and its pullback as graphs.

    Attributes:
        there: arguments' tensors -> result's tensors, then the `num_saved` that the way back needs.
        back: saved tensors and derivatives by the result's smooth tensors -> those by the arguments' that have one.
        structure: Of the result.
        smooth: Which tensors of the result have a derivative.
        reached: Which tensors of the differentiated arguments got a derivative; that by the others is zero.
        num_saved: Tensors saved.
    """

    there: GraphModule
    back: GraphModule
    structure: Structure
    smooth: tuple[bool, ...]
    reached: tuple[bool, ...]
    num_saved: int


def trace_pair(
    function: Callable[..., Any], differentiated: tuple[Any, ...], rest: tuple[Any, ...], around: Around = nullcontext
) -> Pair:
    """Record `function(*differentiated, *rest)` and its pullback to `differentiated` (see `trace`)."""
    tensors, structure = flatten(differentiated)
    others, other_structure = flatten(rest)
    num_inputs = len(tensors) + len(others)
    seen: list[tuple[Structure, tuple[bool, ...], tuple[bool, ...]]] = []

    def joint(*flat: Tensor) -> tuple[Tensor, ...]:
        leaves = recording(flat[: len(tensors)])
        given = other_structure.rebuild(flat[len(tensors) : num_inputs])
        with around():
            with torch.enable_grad():
                found, form = flatten(function(*structure.rebuild(leaves), *given))
            cotangents, smooth = iter(flat[num_inputs:]), tuple(out.is_floating_point() for out in found)
            grads = derivatives(found, leaves, [next(cotangents) if here else None for here in smooth])
        seen.append((form, smooth, tuple(grad is not None for grad in grads)))
        return (*(out.detach() for out in found), *(grad.detach() for grad in grads if grad is not None))

    with torch.no_grad():
        example = flatten(function(*differentiated, *rest))[0]
    zeros = [torch.zeros_like(out) for out in example if out.is_floating_point()]
    module = make_fx(joint, tracing_mode="fake")(*tensors, *others, *zeros)
    module.graph.eliminate_dead_code()
    there, back, num_saved = _cut(module, num_inputs, len(example))
    return Pair(there, back, *seen[-1], num_saved)


def _cut(module: GraphModule, num_arguments: int, num_outputs: int) -> tuple[GraphModule, GraphModule, int]:
    """Cut a joint graph: what depends on a cotangent goes back, all else there, and what crosses is saved."""
    nodes = list(module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    results = list(nodes[-1].args[0])
    late = set(placeholders[num_arguments:])
    for node in nodes[:-1]:
        if any(source in late for source in node.all_input_nodes):
            late.add(node)
    ends = {node for node in results[num_outputs:] if isinstance(node, Node)}
    crossing = [
        node
        for node in nodes[:-1]
        if node not in late and (node in ends or any(user in late for user in node.users)) and node.op != "get_attr"
    ]
    constants = [node for node in nodes if node.op == "get_attr"]
    early = [node for node in nodes[:-1] if node not in late and node.op != "placeholder"]
    there = _extract(module, placeholders[:num_arguments], early, [*results[:num_outputs], *crossing])
    after = [node for node in nodes[:-1] if node in late and node.op != "placeholder"]
    back = _extract(module, [*crossing, *placeholders[num_arguments:]], [*constants, *after], results[num_outputs:])
    return there, back, len(crossing)


def _extract(module: GraphModule, inputs: list[Node], body: list[Node], outputs: list[Any]) -> GraphModule:
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
