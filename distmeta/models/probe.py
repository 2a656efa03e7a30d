"""What a network of unknown operations can do, found by trying it on two examples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, vmap

from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.models.base import HEAD, Backbone, Frame

_EXAMPLES = 3


def require_pure(backbone: Backbone, params: Params, shape: tuple[int, ...], dtype: torch.dtype, where: str) -> None:
    """Check that the outputs depend on the arguments alone: not on torch's generator, nor on earlier calls.

    Raises:
        UserError: They do.
    """
    outputs = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            outputs.append(_outputs(backbone, params, _example(shape, dtype)))
    if not torch.equal(*outputs):
        raise UserError(
            "the network gives other outputs for the same inputs: it draws random numbers or keeps state",
            where=where,
            allowed="torch.nn.Dropout layers, which draw from the seeds of tasks, and no other state",
        )


def is_row_wise(backbone: Backbone, params: Params, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether the outputs for an example are the same alone and in a batch."""
    x = _example(shape, dtype)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about statistics of a single example
        together, alone = _outputs(backbone, params, x, training=False), []
        try:
            alone = [_outputs(backbone, params, x[i : i + 1], training=False) for i in range(len(x))]
        except (RuntimeError, ValueError):
            return False
    return torch.allclose(together, torch.cat(alone), rtol=1e-3, atol=1e-4)


def find_limits(backbone: Backbone, params: Params, shape: tuple[int, ...], dtype: torch.dtype) -> Mapping[str, str]:
    """What does not work with a network, and why: keys `second_order` and `vmap`."""
    x = torch.stack((_example(shape, dtype), _example(shape, dtype, seed=1)))
    limits: dict[str, str] = {}

    def loss(params: Params, x: Tensor) -> Tensor:
        return _outputs(backbone, params, x).square().mean()

    def slope(params: Params) -> Tensor:
        grads = torch.func.grad(loss)(params, x[0])
        return torch.stack([grad.square().sum() for grad in grads.values()]).sum()

    def second_order() -> Any:
        return torch.func.grad(slope)(params)

    def batched() -> None:
        """Weights of their own for each task, and weights that all tasks start from, against one task at a time."""
        stacked = {name: torch.stack((tensor, tensor)) for name, tensor in params.items()}
        expected = [torch.func.grad(loss)(params, each) for each in x]
        for dims, values in ((0, stacked), (None, params)):
            grads = vmap(torch.func.grad(loss), in_dims=(dims, 0))(values, x)
            for name, grad in grads.items():
                if not torch.allclose(grad, torch.stack([each[name] for each in expected]), rtol=1e-3, atol=1e-5):
                    raise ValueError(f"the gradient by {name} differs from that of one task at a time")

    attempts: dict[str, Callable[[], Any]] = {"second_order": second_order, "vmap": batched}
    for name, attempt in attempts.items() if params else ():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns where vmap would be a loop
                attempt()
        except Exception as error:  # torch raises what it likes for operations that it does not know
            text = " ".join(str(error).split())
            limits[name] = f"{type(error).__name__}: {text[:160]}"
    return limits


def _example(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.rand(_EXAMPLES, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _outputs(backbone: Backbone, params: Mapping[str, Tensor], x: Tensor, *, training: bool = True) -> Tensor:
    frame = Frame(training=training, buffers=backbone.buffers(), seed=torch.zeros((), dtype=torch.int64))
    features = backbone.features(params, x, frame)
    return backbone.head(params, features, HEAD) if backbone.has_head and HEAD in backbone.heads else features
