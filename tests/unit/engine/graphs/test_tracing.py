"""Graphs give the numbers of the functions that they were traced from; no compiler is needed to run them."""

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

from distmeta.engine.graphs.tracing import Pair, trace, trace_pair
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
    "nests": (nested, (State(W, None), {"inputs": X, "rows": torch.tensor([3, 0, 0]), "labels": LABELS})),
    "the argument itself": (lambda x: (x, x, x.T), (X,)),
    "constants": (lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) + torch.arange(4), (X,)),
    "no result": (lambda x: {"none": None}, (X,)),
}


def operations(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if node.op == "call_function"]


def moved(tree: Any) -> Any:
    """The same nest with other numbers in it."""
    tensors, structure = flatten(tree)
    return structure.rebuild([x + 0.1 * draw(*x.shape, seed=9) if x.is_floating_point() else x for x in tensors])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_gives_the_numbers_of_its_function(name: str) -> None:
    function, example = FUNCTIONS[name]
    module, structure = trace(function, *example)
    for arguments in (example, moved(example)):
        found, expected = module(*flatten(arguments)[0]), flatten(function(*arguments))
        assert structure == expected[1]
        assert len(found) == len(expected[0])
        for left, right in zip(found, expected[0], strict=True):
            assert not left.requires_grad
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_a_graph_records_operations_of_tensors_alone() -> None:
    module, _ = trace(by_autograd, W, T_X)
    assert {node.op for node in module.graph.nodes} <= {"placeholder", "get_attr", "call_function", "output"}
    assert all(isinstance(node.target, torch._ops.OpOverload) for node in operations(module))


def step(weight: Tensor, moment: Tensor, unused: Tensor, labels: Tensor, inputs: Tensor) -> dict[str, Any]:
    logits = torch.tanh(inputs @ weight)
    after = weight - 0.3 * grad(lambda w: F.cross_entropy(torch.tanh(inputs @ w), labels))(weight)
    return {"after": after, "rows": labels * 2, "moment": moment.square() + weight.sum(), "kept": inputs, "out": logits}


DIFFERENTIATED = (W, draw(2), draw(3), LABELS)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return trace_pair(step, DIFFERENTIATED, (X,))


def there(pair: Pair, *arguments: Tensor) -> tuple[dict[str, Any], list[Tensor]]:
    found = list(pair.there(*arguments))
    cut = len(found) - pair.num_saved
    return pair.structure.rebuild(found[:cut]), found[cut:]


def test_the_way_there_gives_the_numbers_of_the_function(pair: Pair) -> None:
    outputs, _ = there(pair, *DIFFERENTIATED, X)
    expected = step(*DIFFERENTIATED, X)
    assert list(outputs) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(outputs[name], tensor, rtol=1e-12, atol=1e-13)


def test_the_way_back_gives_the_vector_jacobian_product(pair: Pair) -> None:
    _, saved = there(pair, *DIFFERENTIATED, X)
    assert pair.smooth == (True, False, True, True, True)
    assert pair.reached == (True, True, False, False)
    for seed in (1, 2):
        outputs = step(*DIFFERENTIATED, X)
        cotangents = {
            name: draw(*tensor.shape, seed=seed) for name, tensor in outputs.items() if tensor.is_floating_point()
        }

        def smooth(weight: Tensor, moment: Tensor, outputs: dict[str, Tensor] = cotangents) -> tuple[Tensor, ...]:
            found = step(weight, moment, *DIFFERENTIATED[2:], X)
            return tuple(found[name] for name in outputs)

        expected = vjp(smooth, DIFFERENTIATED[:2], tuple(cotangents.values()))[1]
        for left, right in zip(pair.back(*saved, *cotangents.values()), expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


def test_nothing_that_depends_on_a_cotangent_is_on_the_way_there(pair: Pair) -> None:
    num_arguments = len(DIFFERENTIATED) + 1
    assert len(pair.there.graph.find_nodes(op="placeholder")) == num_arguments
    assert len(pair.back.graph.find_nodes(op="placeholder")) == pair.num_saved + sum(pair.smooth)


def test_the_way_back_computes_only_what_depends_on_a_cotangent(pair: Pair) -> None:
    late: set[Node] = set(pair.back.graph.find_nodes(op="placeholder")[pair.num_saved :])
    for node in operations(pair.back):
        assert any(source in late for source in node.all_input_nodes), node.format_node()
        late.add(node)


def test_only_what_the_way_back_reads_is_saved_and_once(pair: Pair) -> None:
    saved = pair.back.graph.find_nodes(op="placeholder")[: pair.num_saved]
    assert all(node.users for node in saved)
    outputs = pair.there.graph.output_node().args[0]
    crossing = outputs[len(outputs) - pair.num_saved :]
    assert len(set(crossing)) == len(crossing)
    shapes = [tuple(node.meta["val"].shape) for node in saved]
    assert shapes == [tuple(tensor.shape) for tensor in there(pair, *DIFFERENTIATED, X)[1]]


def test_a_linear_function_saves_its_factor_alone() -> None:
    linear = trace_pair(lambda x, factor: x @ factor, (X,), (W,))
    assert linear.num_saved == 1
    saved = linear.there(X, W)[1:]
    torch.testing.assert_close(linear.back(*saved, draw(5, 3))[0], draw(5, 3) @ W.T)


def test_functions_without_a_derivative_have_an_empty_way_back() -> None:
    still = trace_pair(lambda x, y: y, (X,), (W,))
    assert (still.num_saved, still.reached) == (0, (False,))
    assert still.back(draw(4, 3)) == ()


def test_pairs_of_vmapped_functions_sum_over_the_tasks() -> None:
    lifted = vmap(inner_step, in_dims=(None, 0))
    graph = trace_pair(lifted, (W,), (T_X,))
    after, *saved = graph.there(W, T_X)
    torch.testing.assert_close(after, lifted(W, T_X))
    expected = vjp(lambda weight: lifted(weight, T_X), W, T_W)[1]
    torch.testing.assert_close(graph.back(*saved, T_W)[0], expected)
