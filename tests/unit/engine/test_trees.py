from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from distmeta.engine.trees import derivatives, flatten, graph_leaves


class State(NamedTuple):
    weights: dict[str, Tensor]
    features: Tensor | None


A, B, C = torch.ones(2), torch.arange(3), torch.zeros(1, 2)
TREES: dict[str, tuple[Any, list[Tensor]]] = {
    "tensor": (A, [A]),
    "nothing": (None, []),
    "empty": ({}, []),
    "dict": ({"b": A, "a": B}, [A, B]),
    "None among tensors": ((None, A, None, (B, None)), [A, B]),
    "other leaves": ({"lr": 0.1, "name": "head", "weight": A, "steps": (1, [B, 2])}, [A, B]),
    "named tuple": (State({"w": A, "v": B}, None), [A, B]),
    "named tuples in a tuple": ((State({}, C), State({"w": A}, B)), [C, A, B]),
}


def same(left: Any, right: Any) -> bool:
    """The same pytree around the very same tensors."""
    if isinstance(left, Tensor):
        return left is right
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
    if isinstance(left, tuple | list):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("name", TREES)
def test_a_pytree_is_rebuilt_from_its_tensors(name: str) -> None:
    tree, expected = TREES[name]
    tensors, structure = flatten(tree)
    assert len(tensors) == len(expected) and all(map(same, tensors, expected))
    assert same(structure.rebuild(tensors), tree)


@pytest.mark.parametrize("name", TREES)
def test_a_pytree_is_rebuilt_from_other_tensors(name: str) -> None:
    tensors, structure = flatten(TREES[name][0])
    others = [torch.full((4,), float(i)) for i in range(len(tensors))]
    again, structure_again = flatten(structure.rebuild(others))
    assert structure_again == structure
    assert all(map(same, again, others))


def test_graph_leaves_have_no_history() -> None:
    source = A.clone().requires_grad_()
    twice, labels = graph_leaves((2 * source, B))
    assert twice.is_leaf and twice.requires_grad and torch.equal(twice, 2 * source)
    assert not labels.requires_grad and torch.equal(labels, B)


def test_derivatives_are_sums_over_the_outputs() -> None:
    x, y, unused, labels = graph_leaves((torch.tensor(3.0), torch.tensor(5.0), torch.tensor(7.0), torch.tensor(1)))
    outputs = (x * y, x.square(), y.square())
    cotangents = (torch.tensor(2.0), torch.tensor(10.0), None)
    grads = derivatives(outputs, (x, y, unused, labels), cotangents)
    assert grads[2:] == (None, None)
    assert [float(grad) for grad in grads[:2] if grad is not None] == [2 * 5 + 10 * 6, 2 * 3]


def test_derivatives_without_any_cotangent_or_dependence_are_zero() -> None:
    (x,) = graph_leaves((A,))
    assert derivatives((x * 2,), (x,), (None,)) == (None,)
    assert derivatives((A * 2, B), (x,), (torch.ones(2), None)) == (None,)
    assert derivatives((x * 2,), (A, B), (torch.ones(2),)) == (None, None)
    assert derivatives((), (x,), ()) == (None,)
    assert derivatives((x * 2,), (), (torch.ones(2),)) == ()


def test_each_output_needs_a_cotangent() -> None:
    (x,) = graph_leaves((A,))
    with pytest.raises(ValueError, match="zip"):
        derivatives((x, x), (x,), (torch.ones(2),))
