"""Lifts: a lift turns a function of one task into a function of T tasks, by a loop or by `torch.vmap`.

Arguments and results are pytrees of tensors, batches or episodes. Every tensor of the lifted function has a leading
task axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, vmap
from torch.utils._pytree import tree_map

from distmeta.core.types import Batch, Episode
from distmeta.engine.trees import Structure, flatten

Function = Callable[..., Any]
Lift = Callable[[Function], Function]


def _loop(function: Function) -> Function:
    """One task after the other; the engine cuts chunks of one task, which need no stacking."""

    def lifted(*arguments: Any) -> Any:
        tensors, structure = flatten([_to_tensors(argument) for argument in arguments])

        def one(tensors: Sequence[Tensor]) -> Any:
            single = structure.rebuild(tensors)
            return function(*(_from_tensors(a, s) for a, s in zip(arguments, single, strict=True)))

        if tensors[0].shape[0] > 1:
            results = [flatten(one(rows)) for rows in zip(*(tensor.unbind(0) for tensor in tensors), strict=True)]
            return results[0][1].rebuild(
                [torch.stack(leaves) for leaves in zip(*(each for each, _ in results), strict=True)]
            )
        result = one([tensor.squeeze(0) for tensor in tensors])
        return tree_map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, result)

    return lifted


def _vmap(function: Function) -> Function:
    """Any T: all tasks of the chunk at once."""

    def lifted(*arguments: Any) -> Any:
        tensors, structure = flatten([_to_tensors(argument) for argument in arguments])
        structures: list[Structure] = []

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            single = structure.rebuild(tensors)
            result = function(*(_from_tensors(a, s) for a, s in zip(arguments, single, strict=True)))
            outputs, result_structure = flatten(result)
            structures.append(result_structure)
            return outputs

        outputs = vmap(flat, randomness="error")(*tensors)
        return structures[0].rebuild(outputs)

    return lifted


def _to_tensors(argument: Any) -> Any:
    """Batches and episodes, which are no pytrees, as tuples of their tensors."""
    return argument.tensors() if isinstance(argument, Batch | Episode) else argument


def _from_tensors(argument: Any, tensors: Any) -> Any:
    """Undo `_to_tensors`: `argument` with other tensors."""
    return argument.rebuild(tensors) if isinstance(argument, Batch | Episode) else tensors


LIFTS: dict[str, Lift] = {"loop": _loop, "vmap": _vmap}
