"""Precision policies: what they change, what they leave alone, what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from distmeta.core.errors import UserError
from distmeta.engine.precision import Matmul, allowed_policies, check_policy, library_precision, products

needs_bf16 = pytest.mark.skipif("bf16" not in allowed_policies("cpu"), reason="this processor has no bfloat16 products")


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


A, B = draw(40, 64), draw(64, 24)
X, W, GY = draw(5, 8, 9, 9), draw(6, 8, 3, 3), draw(5, 6, 5, 5)


def convolution_backward(output: int, *operands: Tensor) -> Tensor:
    """One of the gradients by image (0), weight (1) and bias (2)."""
    mask = [index == output for index in range(3)]
    settings = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(*operands, [6], *settings, mask)[output]


PRODUCTS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "mm": (torch.mm, (A, B)),
    "addmm": (partial(torch.addmm, beta=0.5, alpha=2.0), (draw(24), A, B)),
    "linear": (F.linear, (A, B.T, draw(24))),
    "bmm": (torch.bmm, (draw(3, 40, 64), draw(3, 64, 24))),
    "baddbmm": (torch.baddbmm, (draw(24), draw(3, 40, 64), draw(3, 64, 24))),
    "convolution": (partial(F.conv2d, stride=2, padding=1), (X, W, draw(6))),
    "convolution to image": (partial(convolution_backward, 0), (GY, X, W)),
    "convolution to weight": (partial(convolution_backward, 1), (GY, X, W)),
}


def compute(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    function, operands = PRODUCTS[name]
    return function(*(tensor.to(device, dtype) for tensor in operands)).cpu()


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


@needs_bf16
@pytest.mark.parametrize("name", PRODUCTS)
def test_bf16_products_round_to_seven_bits_and_stay_float32(name: str) -> None:
    exact, plain = compute(name, torch.float64), compute(name)
    with products("bf16"):
        rounded = compute(name)
    assert rounded.dtype == plain.dtype == torch.float32
    assert error(plain, exact) < 1e-6
    # Three roundings of at most 2^-9 each.
    assert 5e-4 < error(rounded, exact) < 3 * 2**-9
    assert torch.equal(compute(name), plain), "the policy ends with its block"


@pytest.mark.parametrize("policy", ["float32", "tf32"])
def test_other_policies_replace_no_products(policy: Matmul) -> None:
    with products(policy):
        inside = compute("mm")
    assert torch.equal(inside, compute("mm"))


@needs_bf16
def test_sums_and_float64_products_are_exact() -> None:
    with products("bf16"):
        double = compute("mm", torch.float64)
        bias = convolution_backward(2, GY.float(), X.float(), W.float())
        mean = X.float().mean((0, 2, 3))
    assert torch.equal(double, compute("mm", torch.float64))
    assert torch.equal(bias, GY.float().sum((0, 2, 3)))
    assert torch.equal(mean, X.float().mean((0, 2, 3)))


def second_order(weight: Tensor) -> Tensor:
    """A gradient through a gradient step of a convolution, for two tasks with weights of their own."""
    images = X.to(weight.dtype).unflatten(0, (1, 5)).expand(2, -1, -1, -1, -1)

    def loss(weight: Tensor, images: Tensor) -> Tensor:
        return torch.tanh(F.conv2d(images, weight, padding=1)).square().mean((2, 3)).sum()

    weight = weight.detach().requires_grad_()
    moved = weight - 0.1 * vmap(grad(loss), in_dims=(None, 0))(weight, images)
    return torch.autograd.grad(vmap(loss)(moved, images).sum(), weight)[0]


@needs_bf16
def test_products_of_higher_derivatives_are_rounded() -> None:
    exact = second_order(W)
    with products("bf16"):
        rounded = second_order(W.float())
    assert error(second_order(W.float()), exact) < 1e-5 < 1e-3 < error(rounded, exact) < 0.2


@needs_bf16
def test_a_traced_graph_contains_the_rounding() -> None:
    def traced(left: Tensor, right: Tensor) -> Tensor:
        with products("bf16"):
            return left @ right

    module = make_fx(traced, tracing_mode="fake")(A.float(), B.float())
    with products("bf16"):
        expected = compute("mm")
    assert torch.equal(module(A.float(), B.float()), expected)
    assert "bfloat16" in module.code


@needs_bf16
def test_products_of_other_threads_are_exact() -> None:
    results: list[Tensor] = []
    with products("bf16"):
        other = threading.Thread(target=lambda: results.append(compute("mm")))
        other.start()
        other.join()
    assert torch.equal(results[0], compute("mm"))


def settings() -> tuple[object, ...]:
    backends = torch.backends
    return torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32, backends.mkldnn.conv.fp32_precision


@pytest.fixture
def _defaults() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.usefixtures("_defaults")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [("float32", ("highest", False, "ieee")), ("tf32", ("high", True, "ieee")), ("bf16", ("highest", False, "ieee"))],
)
@pytest.mark.parametrize("before", [("highest", True), ("medium", False)])
def test_settings_are_changed_and_restored(
    policy: Matmul, expected: tuple[object, ...], before: tuple[str, bool]
) -> None:
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    start = settings()
    with pytest.raises(RuntimeError, match="stop"), library_precision(policy):
        assert settings() == expected
        raise RuntimeError("stop")
    assert settings() == start


@pytest.mark.usefixtures("_defaults")
def test_newer_settings_of_the_process_are_refused() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(UserError, match=r"^engine\.matmul: .*`fp32_precision`.*; allowed: [^\n]*$"):
        library_precision("float32").__enter__()


def test_float32_is_always_allowed() -> None:
    assert allowed_policies("cpu")[0] == "float32"
    for dtype in (torch.float32, torch.float64):
        check_policy("float32", "cpu", dtype)
        check_policy("float32", "cuda", dtype)


@pytest.mark.parametrize("policy", ["tf32", "bf16"])
def test_rounding_policies_need_float32(policy: Matmul) -> None:
    message = rf"^engine\.matmul: '{policy}' rounds float32, but engine\.dtype is float64; allowed: float32$"
    with pytest.raises(UserError, match=message):
        check_policy(policy, "cpu", torch.float64)


def test_tf32_is_refused_on_the_cpu() -> None:
    with pytest.raises(
        UserError, match=r"^engine\.matmul: cpu does not support tf32 products; allowed: float32(, bf16)?$"
    ):
        check_policy("tf32", "cpu", torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("policy", ["tf32", "bf16"])
def test_rounded_products_on_cuda_are_refused_without_a_gpu(policy: Matmul) -> None:
    with pytest.raises(
        UserError, match=rf"^engine\.matmul: cuda does not support {policy} products; allowed: float32$"
    ):
        check_policy(policy, "cuda", torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("name", PRODUCTS)
def test_each_policy_takes_effect_on_a_gpu(name: str) -> None:
    exact = compute(name, torch.float64)

    def run(policy: Matmul) -> float:
        with library_precision(policy), products(policy):
            return error(compute(name, device="cuda"), exact)

    # cuDNN may use TF32, but computes small convolutions without.
    least = 0.0 if name.startswith("convolution") else 1e-5
    assert run("float32") < 1e-6
    assert least <= run("tf32") < 3 * 2**-12
    assert 5e-4 < run("bf16") < 3 * 2**-9
