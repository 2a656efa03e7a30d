"""Traced graphs give the results of their functions; they run eagerly here, without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import vjp
from torch.func import grad, jacrev, vmap
from torch.fx import GraphModule, Node

from distmeta.engine.graphs.tracing import ForwardBackward, trace, trace_forward_backward
from distmeta.engine.trees import flatten


class State(NamedTuple):
    weight: Tensor
    features: Tensor | None


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


LABELS = torch.tensor([0, 2, 1, 1, 0])
W, X, T_X, T_W = draw(4, 3), draw(5, 4), draw(6, 5, 4), draw(6, 4, 3)


def loss(weight: Tensor, inputs: Tensor) -> Tensor:
    outputs = torch.tanh(inputs @ weight)
    return (outputs.logsumexp(1) - outputs[:, 0]).mean()


def inner_step(weight: Tensor, inputs: Tensor) -> Tensor:
    return weight - 0.3 * grad(loss)(weight, inputs)


def meta_gradient(weight: Tensor, inputs: Tensor) -> Tensor:
    return grad(lambda weight: loss(inner_step(weight, inputs), inputs))(weight)


def by_autograd(weight: Tensor, inputs: Tensor) -> Tensor:
    leaf = weight.detach().requires_grad_()
    with torch.enable_grad():
        total = vmap(lambda inputs: loss(inner_step(leaf, inputs), inputs))(inputs).sum()
    return torch.autograd.grad(total, leaf)[0]


def nested(state: State, rest: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    rows = rest["inputs"].index_select(0, rest["rows"])
    return State(state.weight * 2, None), {"rows": rows, "labels": rest["labels"] + 1, "none": None}


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "plain": (loss, (W, X)),
    "gradient": (grad(loss), (W, X)),
    "gradient of gradient": (meta_gradient, (W, X)),
    "Hessian": (jacrev(grad(loss)), (W, X)),
    "vmapped gradient": (vmap(grad(loss), in_dims=(None, 0)), (W, T_X)),
    "vmapped gradient of gradient": (vmap(meta_gradient), (T_W, T_X)),
    "gradient of a vmapped gradient": (by_autograd, (W, T_X)),
    "pytrees": (nested, (State(W, None), {"inputs": X, "rows": torch.tensor([3, 0, 0]), "labels": LABELS})),
    "the argument itself": (lambda x: (x, x, x.T), (X,)),
    "constants": (lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) + torch.arange(4), (X,)),
    "no result": (lambda x: {"none": None}, (X,)),
}


def operations(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.op == "call_function"]


def moved(tree: Any) -> Any:
    """The same pytree with other values."""
    tensors, structure = flatten(tree)
    return structure.rebuild([x + 0.1 * draw(*x.shape, seed=9) if x.is_floating_point() else x for x in tensors])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_gives_the_results_of_its_function(name: str) -> None:
    function, example = FUNCTIONS[name]
    module, structure = trace(function, *example)
    for arguments in (example, moved(example)):
        results, (expected, expected_structure) = module(*flatten(arguments)[0]), flatten(function(*arguments))
        assert structure == expected_structure
        assert len(results) == len(expected)
        for result, tensor in zip(results, expected, strict=True):
            assert not result.requires_grad
            torch.testing.assert_close(result, tensor, rtol=1e-12, atol=1e-13)


def test_a_graph_holds_tensor_operations_only() -> None:
    module, _ = trace(by_autograd, W, T_X)
    assert {node.op for node in module.graph.nodes} <= {"placeholder", "get_attr", "call_function", "output"}
    assert all(isinstance(node.target, torch._ops.OpOverload) for node in operations(module))


def step(weight: Tensor, moment: Tensor, unused: Tensor, labels: Tensor, inputs: Tensor) -> dict[str, Any]:
    logits = torch.tanh(inputs @ weight)
    after = weight - 0.3 * grad(lambda w: F.cross_entropy(torch.tanh(inputs @ w), labels))(weight)
    return {"after": after, "rows": labels * 2, "moment": moment.square() + weight.sum(), "kept": inputs, "out": logits}


DIFFERENTIATED = (W, draw(2), draw(3), LABELS)


@pytest.fixture(scope="module")
def graphs() -> ForwardBackward:
    return trace_forward_backward(step, DIFFERENTIATED, (X,))


def run_forward(graphs: ForwardBackward, *arguments: Tensor) -> tuple[dict[str, Any], list[Tensor]]:
    """The result of the function, and the saved tensors."""
    results = list(graphs.forward(*arguments))
    num_outputs = len(results) - graphs.num_saved
    return graphs.structure.rebuild(results[:num_outputs]), results[num_outputs:]


def test_the_forward_graph_gives_the_result_of_the_function(graphs: ForwardBackward) -> None:
    outputs, _ = run_forward(graphs, *DIFFERENTIATED, X)
    expected = step(*DIFFERENTIATED, X)
    assert list(outputs) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs[name], tensor, rtol=1e-12, atol=1e-13)


def test_the_backward_graph_gives_the_vector_jacobian_product(graphs: ForwardBackward) -> None:
    _, saved = run_forward(graphs, *DIFFERENTIATED, X)
    assert graphs.differentiable == (True, False, True, True, True)
    assert graphs.has_grad == (True, True, False, False)
    for seed in (1, 2):
        outputs = step(*DIFFERENTIATED, X)
        cotangents = {
            name: draw(*tensor.shape, seed=seed) for name, tensor in outputs.items() if tensor.is_floating_point()
        }

        def differentiable(
            weight: Tensor, moment: Tensor, outputs: dict[str, Tensor] = cotangents
        ) -> tuple[Tensor, ...]:
            results = step(weight, moment, *DIFFERENTIATED[2:], X)
            return tuple(results[name] for name in outputs)

        expected = vjp(differentiable, DIFFERENTIATED[:2], tuple(cotangents.values()))[1]
        for result, tensor in zip(graphs.backward(*saved, *cotangents.values()), expected, strict=True):
            torch.testing.assert_close(result, tensor, rtol=1e-12, atol=1e-13)


def test_the_forward_graph_does_not_depend_on_cotangents(graphs: ForwardBackward) -> None:
    num_arguments = len(DIFFERENTIATED) + 1
    assert len(graphs.forward.graph.find_nodes(op="placeholder")) == num_arguments
    num_inputs = graphs.num_saved + sum(graphs.differentiable)
    assert len(graphs.backward.graph.find_nodes(op="placeholder")) == num_inputs


def test_every_node_of_the_backward_graph_depends_on_a_cotangent(graphs: ForwardBackward) -> None:
    dependent: set[Node] = set(graphs.backward.graph.find_nodes(op="placeholder")[graphs.num_saved :])
    for node in operations(graphs.backward):
        assert any(source in dependent for source in node.all_input_nodes), node.format_node()
        dependent.add(node)


def test_each_saved_tensor_is_read_by_the_backward_graph_and_saved_once(graphs: ForwardBackward) -> None:
    saved = graphs.backward.graph.find_nodes(op="placeholder")[: graphs.num_saved]
    assert all(node.users for node in saved)
    outputs = graphs.forward.graph.output_node().args[0]
    saved_outputs = outputs[len(outputs) - graphs.num_saved :]
    assert len(set(saved_outputs)) == len(saved_outputs)
    shapes = [tuple(node.meta["val"].shape) for node in saved]
    assert shapes == [tuple(tensor.shape) for tensor in run_forward(graphs, *DIFFERENTIATED, X)[1]]


def test_a_linear_function_saves_its_factor_only() -> None:
    linear = trace_forward_backward(lambda x, factor: x @ factor, (X,), (W,))
    assert linear.num_saved == 1
    saved = linear.forward(X, W)[1:]
    torch.testing.assert_close(linear.backward(*saved, draw(5, 3))[0], draw(5, 3) @ W.T)


def test_a_function_without_a_derivative_has_an_empty_backward_graph() -> None:
    constant = trace_forward_backward(lambda x, y: y, (X,), (W,))
    assert (constant.num_saved, constant.has_grad) == (0, (False,))
    assert constant.backward(draw(4, 3)) == ()


def test_the_backward_graph_of_a_vmapped_function_sums_over_the_tasks() -> None:
    lifted = vmap(inner_step, in_dims=(None, 0))
    graphs = trace_forward_backward(lifted, (W,), (T_X,))
    after, *saved = graphs.forward(W, T_X)
    torch.testing.assert_close(after, lifted(W, T_X))
    expected = vjp(lambda weight: lifted(weight, T_X), W, T_W)[1]
    torch.testing.assert_close(graphs.backward(*saved, T_W)[0], expected)
