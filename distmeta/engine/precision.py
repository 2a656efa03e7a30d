"""How exactly matrix products and convolutions are computed; everything else, and all storage, stays float32.

    float32   as float32 (IEEE), also where the library would take a shortcut unasked: cuDNN's convolutions use TF32
    tf32      operands rounded to 10 mantissa bits by the GPU's matrix units, sums and results float32 (CUDA alone)
    bf16      operands and result of each product rounded to bfloat16 (7 mantissa bits), sums inside it float32

TF32 is a switch of the libraries. bfloat16 is not: torch's switch for it (`torch.backends.mkldnn...fp32_precision`) is
heeded on processors with AMX alone, and unknown to CUDA. So the products themselves are replaced as they are
dispatched: below differentiation and batching, hence in derivatives of every order, and in graphs that are being
traced. Biases, statistics of batch norm, losses, updates and sums over tasks are no products and stay float32.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distmeta.core.errors import UserError

Matmul = Literal["float32", "tf32", "bf16"]

_FIELD = "engine.matmul"
_CPU_CONVOLUTIONS: Any = torch.backends.mkldnn.conv  # type: ignore[attr-defined]
_aten = torch.ops.aten


def allowed_policies(device: str) -> tuple[Matmul, ...]:
    """The policies that a device has units for; `float32` comes first and is always there."""
    has = {"tf32": _has_tf32(device), "bf16": _has_bf16(device)}
    names: tuple[Matmul, ...] = ("float32", "tf32", "bf16")
    return tuple(name for name in names if has.get(name, True))


def check_policy(policy: Matmul, device: str, dtype: torch.dtype) -> None:
    """Refuse what the device cannot do, before anything is computed.

    Args:
        policy: `engine.matmul`.
        device: Where products are computed: `cpu`, `cuda`, `cuda:N`.
        dtype: Type of parameters and data.

    Raises:
        UserError: The device has no such products, or `dtype` is not float32.
    """
    if dtype != torch.float32 and policy != "float32":
        kind = str(dtype).removeprefix("torch.")
        raise UserError(f"'{policy}' shortens float32, engine.dtype is {kind}", where=_FIELD, allowed="float32")
    allowed = allowed_policies(device)
    if policy not in allowed:
        raise UserError(f"{device} has no {policy} products here", where=_FIELD, allowed=", ".join(allowed))


@contextmanager
def library_precision(policy: Matmul) -> Iterator[None]:
    """Set the libraries' switches, which are the whole process's, and put them back afterwards.

    Args:
        policy: TF32 is on with `tf32` and off with the others.

    Raises:
        UserError: The process has set them in a way that torch itself cannot tell.
    """
    try:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, _CPU_CONVOLUTIONS.fp32_precision
    except RuntimeError as error:
        raise UserError(
            "this process has set `fp32_precision` of some of torch's backends, which hides their older switches",
            where=_FIELD,
            allowed="torch.set_float32_matmul_precision and torch.backends.cudnn.allow_tf32, or neither",
        ) from error
    try:
        _switch("high" if policy == "tf32" else "highest", policy == "tf32", "ieee")
        yield
    finally:
        _switch(*before)


def _switch(products: str, gpu_convolutions: bool, cpu_convolutions: str) -> None:
    # The older switches, but where there is none: torch's compiler asks for their state, and the newer ones spoil it.
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = gpu_convolutions
    _CPU_CONVOLUTIONS.fp32_precision = cpu_convolutions


def products(policy: Matmul) -> AbstractContextManager[object]:
    """Replace this thread's float32 products, and those of backward passes that it asks for, where the policy is bf16.

    Goes around eager computation, and inside of a function that is being traced; compiled code has its products in it.
    """
    return _Bfloat16Products() if policy == "bf16" else nullcontext()  # type: ignore[no-untyped-call]


class _Bfloat16Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes the place of float32 products as they are dispatched."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        if replacement is None or not _all_float32(args):
            return func(*args, **(kwargs or {}))
        return replacement(*args, **(kwargs or {}))


def _all_float32(args: tuple[Any, ...]) -> bool:
    return all(arg.dtype == torch.float32 for arg in args if isinstance(arg, Tensor))


def _short(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16)


def _mm(left: Tensor, right: Tensor) -> Tensor:
    return _aten.mm.default(_short(left), _short(right)).float()  # type: ignore[no-any-return]


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    return _aten.bmm.default(_short(left), _short(right)).float()  # type: ignore[no-any-return]


def _addmm(add: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * add + alpha * _mm(left, right)


def _baddbmm(add: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * add + alpha * _bmm(left, right)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    y: Tensor = _aten.convolution.default(_short(x), _short(weight), None, *rest).float()
    return y if bias is None else y + bias.view(-1, *(1,) * (y.dim() - 2))


def _convolution_backward(
    gy: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *rest: Any
) -> tuple[Tensor | None, ...]:
    *settings, wanted = rest
    to_x, to_weight, to_bias = wanted
    gx, gw, gb = None, None, None
    if to_x or to_weight:
        found = _aten.convolution_backward.default(
            _short(gy), _short(x), _short(weight), None, *settings, [to_x, to_weight, False]
        )
        gx, gw = (None if grad is None else grad.float() for grad in found[:2])
    if to_bias:
        gb = gy.sum([axis for axis in range(gy.dim()) if axis != 1])
    return gx, gw, gb


_REPLACEMENTS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _mm,
    _aten.bmm.default: _bmm,
    _aten.addmm.default: _addmm,
    _aten.baddbmm.default: _baddbmm,
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
}


def _has_tf32(device: str) -> bool:
    # torch takes `tf32` for the CPU, too, and computes in float32 all the same.
    return device != "cpu" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _has_bf16(device: str) -> bool:
    if device != "cpu":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN says yes to any AVX512 and emulates what is missing, which is slower than float32.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
