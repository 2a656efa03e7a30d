"""The gradient of an inner step, with and without a derivative of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vmap

from distmeta.core.types import Params
from distmeta.methods.learners.differentiate import gradient_of


def loss(params: Params) -> tuple[Tensor, Params]:
    hidden = torch.tanh(torch.linspace(-1, 1, 12).reshape(4, 3) @ params["weight"])
    return hidden.square().sum() * params["scale"], {"hidden": hidden}


def params() -> Params:
    rng = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(3, 2, generator=rng), "scale": torch.tensor(0.7), "unused": torch.ones(2)}


def test_without_further_derivatives_it_has_the_bits_of_torch_func() -> None:
    expected, others = grad(loss, has_aux=True)(params())
    with torch.no_grad():
        found, tensors = gradient_of(loss)(params())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(tensors["hidden"], others["hidden"])
    assert not any(tensor.requires_grad for tensor in (*found.values(), *tensors.values()))
    assert not found["unused"].any()


def test_a_loss_of_no_parameter_has_a_gradient_of_zero() -> None:
    with torch.no_grad():
        found, _ = gradient_of(lambda params: (torch.tensor(1.0), {}))(params())
    assert not any(tensor.any() for tensor in found.values())


def test_it_can_be_differentiated_and_lifted() -> None:
    start = {name: tensor.requires_grad_() for name, tensor in params().items()}
    found, _ = gradient_of(loss)(start)
    (second,) = torch.autograd.grad(found["weight"].square().sum(), [start["weight"]])
    assert bool(second.any())
    stacked = {name: torch.stack((tensor, 2 * tensor)).detach() for name, tensor in start.items()}
    with torch.no_grad():
        lifted = vmap(lambda each: gradient_of(loss)(each)[0])(stacked)
        alone = gradient_of(loss)({name: tensor[1] for name, tensor in stacked.items()})[0]
    torch.testing.assert_close({name: tensor[1] for name, tensor in lifted.items()}, alone)
