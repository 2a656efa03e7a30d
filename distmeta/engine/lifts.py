"""From a function of one task to a function of T tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, vmap
from torch.utils._pytree import tree_map

from distmeta.core.types import Batch, Episode
from distmeta.engine.trees import Structure, flatten

Function = Callable[..., Any]
Lift = Callable[[Function], Function]
"""Arguments and results are nests of tensors, batches or episodes, with a task axis first on the lifted side."""


def _loop(function: Function) -> Function:
    """For chunks of one task: take the task axis off, and put it back."""

    def lifted(*arguments: Any) -> Any:
        tensors, structure = flatten([_opened(argument) for argument in arguments])
        plain = structure.rebuild([tensor.squeeze(0) for tensor in tensors])
        found = function(*(_closed(a, p) for a, p in zip(arguments, plain, strict=True)))
        return tree_map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, found)

    return lifted


def _vmap(function: Function) -> Function:
    """All tasks of the chunk at once."""

    def lifted(*arguments: Any) -> Any:
        tensors, structure = flatten([_opened(argument) for argument in arguments])
        forms: list[Structure] = []

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            plain = structure.rebuild(tensors)
            found, form = flatten(function(*(_closed(a, p) for a, p in zip(arguments, plain, strict=True))))
            forms.append(form)
            return found

        found = vmap(flat, randomness="error")(*tensors)
        return forms[0].rebuild(found)

    return lifted


def _opened(argument: Any) -> Any:
    """Batches and episodes as their tensors."""
    return argument.tensors() if isinstance(argument, Batch | Episode) else argument


def _closed(argument: Any, plain: Any) -> Any:
    return argument.rebuild(plain) if isinstance(argument, Batch | Episode) else plain


LIFTS: dict[str, Lift] = {"loop": _loop, "vmap": _vmap}
