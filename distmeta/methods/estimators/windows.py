"""Windows of inner steps: an estimate that goes on from where the one of the outer step before ended.

A training task lasts several outer steps, under one seed (`TaskSource.shards`). What is carried from one to the next:

    step          inner steps taken
    seed          seed of the task: when it is another one, a new task has begun
    state.<i>     tensors of the learner's adapted state, and running statistics of the network

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Moment, State, TaskOps

_STEP, _SEED, _STATE = "step", "seed", "state."


class Window(NamedTuple):
    """A stretch of the inner steps of T tasks.

    Attributes:
        first: Inner steps taken before it.
        last: Inner steps taken after it.
        number: Number of windows before it.
        tensors: Those of the state before it, [T, ...] each; none at the start.
    """

    first: int
    last: int
    number: int
    tensors: Sequence[Tensor]


def is_continued(moment: Moment) -> bool:
    """Whether tasks go on from a carry."""
    if not moment.carry or moment.seeds is None:
        return False
    return torch.equal(moment.carry[_SEED], moment.seeds)


def window_of(moment: Moment, num_steps: int, size: int | None) -> Window:
    """The window of an estimate; the tasks of a chunk have taken equally many inner steps.

    Args:
        moment: Seeds and carry.
        num_steps: Inner steps of the tasks.
        size: Inner steps of a window; None takes all of them at once.
    """
    if size is None or not is_continued(moment) or moment.carry is None:
        return Window(0, num_steps if size is None else size, 0, ())
    first = int(moment.carry[_STEP][0])
    names = sorted((name for name in moment.carry if name.startswith(_STATE)), key=lambda name: int(name[6:]))
    return Window(first, first + size, first // size, [moment.carry[name] for name in names])


def carry_of(moment: Moment, window: Window, tensors: Sequence[Tensor]) -> Params:
    """What is carried to the next window; `tensors` are those of the state, [T, ...] each."""
    assert moment.seeds is not None, "tasks that last have seeds"
    states = {f"{_STATE}{i}": tensor for i, tensor in enumerate(tensors)}
    return {_STEP: torch.full_like(moment.seeds, window.last), _SEED: moment.seeds, **states}


def tensors_of(state: State) -> list[Tensor]:
    """The tensors of a state."""
    return [leaf for leaf in tree_flatten(state)[0] if isinstance(leaf, Tensor)]


def state_of(ops: TaskOps, meta: Params, episodes: Episode, tensors: Sequence[Tensor]) -> State:
    """A state with these tensors, of the structure that states of these tasks have; None for no tensors."""
    if not tensors:
        return None
    start = next(iter(ops.walk(meta, episodes, marks=(0,), last=0)))
    leaves, structure = tree_flatten(start.state)
    remaining = iter(tensors)
    return tree_unflatten([next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
