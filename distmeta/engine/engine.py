"""One shard of T tasks on one device: lifts what is written for one task to many, and bounds its memory.

Strategies, all computing the same sums:
    loop   one task at a time; the graph of one task is alive at once
    vmap   `torch.vmap` over the tasks of a chunk; one differentiation for the whole chunk

Chunks are cut by the configuration and summed in order, so the result does not depend on where the shard is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, vmap
from torch.utils._pytree import tree_map

from distmeta.config import EngineConfig
from distmeta.estimators.base import Estimator, TaskFunction, Transforms
from distmeta.learners.base import Learner
from distmeta.types import Episode, Params, Update


class Engine:
    """Computes updates of shards.

    Args:
        learner: How a task is adapted.
        estimator: How the outer signal is made of it.
        config: Strategy and chunk.
    """

    def __init__(self, learner: Learner, estimator: Estimator, config: EngineConfig) -> None:
        self._learner, self._estimator = learner, estimator
        self._chunk = 1 if config.strategy == "loop" else config.chunk
        self._transforms = Transforms(over_tasks=OVER_TASKS[config.strategy], grad=_autograd)

    def update(self, meta: Params, episodes: Episode) -> Update:
        """The update of a shard.

        Args:
            meta: Meta-parameters; not changed.
            episodes: T tasks.

        Returns:
            Sums over the T tasks, of weight T.
        """
        total: Update | None = None
        for chunk in chunks(episodes, self._chunk):
            grad, metrics = self._estimator.estimate(self._learner, meta, chunk, self._transforms)
            names = list(metrics)
            values = torch.stack([metrics[name] for name in names]).double().tolist() if names else []
            update = Update(grad, float(chunk.num_tasks), dict(zip(names, values, strict=True)))
            total = update if total is None else total.merge(update)
        assert total is not None, "a shard has at least one task"
        return total


def chunks(episodes: Episode, size: int | None) -> Iterator[Episode]:
    """Cut the task axis into pieces of `size` tasks, the last one possibly smaller."""
    count = episodes.num_tasks
    size = size or count
    for begin in range(0, count, size):
        end = min(begin + size, count)
        yield episodes.map(lambda tensor, begin=begin, end=end: tensor[begin:end])  # type: ignore[misc]


def _loop(function: TaskFunction) -> TaskFunction:
    """Apply to each task of the (one-task) chunk and stack."""

    def lifted(episodes: Episode) -> Any:
        assert episodes.num_tasks == 1
        return tree_map(lambda tensor: tensor[None], function(episodes.map(lambda tensor: tensor[0])))

    return lifted


def _vmap(function: TaskFunction) -> TaskFunction:
    """Apply to all tasks of the chunk at once."""

    def lifted(episodes: Episode) -> Any:
        return vmap(lambda *tensors: function(episodes.rebuild(tensors)), randomness="error")(*episodes.tensors())

    return lifted


OVER_TASKS: dict[str, Callable[[TaskFunction], TaskFunction]] = {"loop": _loop, "vmap": _vmap}


def lift(strategy: str, function: TaskFunction) -> TaskFunction:
    """Take a function of one task to the tasks of a chunk; `loop` takes chunks of one task."""
    return OVER_TASKS[strategy](function)


def _autograd(function: Callable[[Params], tuple[Tensor, Any]]) -> Callable[[Params], tuple[Params, Any]]:
    """Gradient by the outer autograd tape: cheaper around `vmap` than a functorch level; arguments are not changed."""

    def gradient(meta: Params) -> tuple[Params, Any]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in meta.items()}
        with torch.enable_grad():
            value, aux = function(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, grads, strict=True)), aux

    return gradient
