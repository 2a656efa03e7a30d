"""Precision of matrix products and convolutions (`engine.matmul`); everything else, and all storage, stays float32.

    float32   IEEE float32, also where a library would use TF32 by default (cuDNN's convolutions)
    tf32      operands rounded to 10 mantissa bits by the GPU's matrix units, sums and results float32 (CUDA only)
    bf16      operands and result of each product rounded to bfloat16 (7 mantissa bits), sums inside it float32

TF32 is a setting of the libraries. For bfloat16 there is no usable setting: `torch.backends.mkldnn...fp32_precision`
takes effect only on processors with AMX, and not at all on CUDA. So a dispatch mode replaces the products. Dispatch
happens below autograd and vmap, so derivatives of every order and traced graphs get the replacements too. Biases,
batch-norm statistics, losses, updates and sums over tasks are no products and stay float32.
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
    """The policies that a device supports in hardware; `float32` comes first and is always supported."""
    supported = {"tf32": _supports_tf32(device), "bf16": _supports_bf16(device)}
    names: tuple[Matmul, ...] = ("float32", "tf32", "bf16")
    return tuple(name for name in names if supported.get(name, True))


def check_policy(policy: Matmul, device: str, dtype: torch.dtype) -> None:
    """Check that a device supports a precision policy.

    Args:
        policy: `engine.matmul`.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: Type of parameters and data.

    Raises:
        UserError: The device does not support the policy, or it needs float32 and `dtype` is another type.
    """
    if dtype != torch.float32 and policy != "float32":
        name = str(dtype).removeprefix("torch.")
        raise UserError(f"'{policy}' rounds float32, but engine.dtype is {name}", where=_FIELD, allowed="float32")
    allowed = allowed_policies(device)
    if policy not in allowed:
        raise UserError(f"{device} does not support {policy} products", where=_FIELD, allowed=", ".join(allowed))


@contextmanager
def library_precision(policy: Matmul) -> Iterator[None]:
    """Set the libraries' precision settings, which are global to the process; restore them on exit.

    Args:
        policy: `tf32` turns TF32 on; the other policies turn it off.

    Raises:
        UserError: The process has set torch's newer precision settings, so that the older ones cannot be read.
    """
    try:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, _CPU_CONVOLUTIONS.fp32_precision
    except RuntimeError as error:
        raise UserError(
            "this process has set `fp32_precision` of some of torch's backends, which hides their older settings",
            where=_FIELD,
            allowed="torch.set_float32_matmul_precision and torch.backends.cudnn.allow_tf32, or neither",
        ) from error
    try:
        _set_precision("high" if policy == "tf32" else "highest", policy == "tf32", "ieee")
        yield
    finally:
        _set_precision(*before)


def _set_precision(products: str, gpu_convolutions: bool, cpu_convolutions: str) -> None:
    # The older settings where there are any: torch's compiler reads them, which fails once a newer one has been set.
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = gpu_convolutions
    _CPU_CONVOLUTIONS.fp32_precision = cpu_convolutions


def products(policy: Matmul) -> AbstractContextManager[object]:
    """A context in which float32 products of this thread, backward passes included, follow the policy.

    It only replaces products for `bf16`; the other policies are settings (`library_precision`). Enter it around eager
    computation, or inside a function that is traced. Compiled code contains its products and needs no context.
    """
    return _Bfloat16Products() if policy == "bf16" else nullcontext()  # type: ignore[no-untyped-call]


class _Bfloat16Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces float32 products when they are dispatched."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        if replacement is None or not _all_float32(args):
            return func(*args, **(kwargs or {}))
        return replacement(*args, **(kwargs or {}))


def _all_float32(args: tuple[Any, ...]) -> bool:
    return all(arg.dtype == torch.float32 for arg in args if isinstance(arg, Tensor))


def _bf16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16)


def _mm(left: Tensor, right: Tensor) -> Tensor:
    return _aten.mm.default(_bf16(left), _bf16(right)).float()  # type: ignore[no-any-return]


def _bmm(left: Tensor, right: Tensor) -> Tensor:
    return _aten.bmm.default(_bf16(left), _bf16(right)).float()  # type: ignore[no-any-return]


def _addmm(add: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * add + alpha * _mm(left, right)


def _baddbmm(add: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * add + alpha * _bmm(left, right)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    y: Tensor = _aten.convolution.default(_bf16(x), _bf16(weight), None, *rest).float()
    return y if bias is None else y + bias.view(-1, *(1,) * (y.dim() - 2))


def _convolution_backward(
    gy: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *rest: Any
) -> tuple[Tensor | None, ...]:
    *settings, output_mask = rest
    needs_gx, needs_gw, needs_gb = output_mask
    gx, gw, gb = None, None, None
    if needs_gx or needs_gw:
        grads = _aten.convolution_backward.default(
            _bf16(gy), _bf16(x), _bf16(weight), None, *settings, [needs_gx, needs_gw, False]
        )
        gx, gw = (None if grad is None else grad.float() for grad in grads[:2])
    if needs_gb:
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


def _supports_tf32(device: str) -> bool:
    # torch accepts `tf32` for the CPU, too, and ignores it.
    return device != "cpu" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def _supports_bf16(device: str) -> bool:
    if device != "cpu":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN reports support on any AVX512 and emulates what is missing, which is slower than float32.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
