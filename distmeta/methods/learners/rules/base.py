"""Interface of update rules: how an optimizer turns gradients into updates.

A rule knows nothing of tasks, networks or training loops: learners apply it to the parameters of many tasks at once,
and `distmeta.optim` to those of any module.

Shapes: P entries of all parameters, one parameter after another; S scalars.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from distmeta.core.types import Params

Slots = Params
"""What a rule remembers of the steps before, by name: tensors that only the rule interprets."""


class UpdateRule(ABC):
    """Pure functions; arguments are never changed."""

    @abstractmethod
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        """Initial parameters of the rule itself: what is learned."""

    @abstractmethod
    def start(self, params: Tensor) -> Slots:
        """The slots before the first step, for parameters [P]."""

    @abstractmethod
    def scalars(self, k: int, steps: int) -> tuple[float, ...]:
        """S numbers that step `k` of `steps` alone uses; the first one is 0."""

    @abstractmethod
    def update(
        self, own: Params, slots: Slots, grad: Tensor, params: Tensor, scalars: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Slots]:
        """Compute one step.

        Args:
            own: The rule's own parameters.
            slots: What `start` or the step before gave.
            grad: [P] gradient.
            params: [P].
            scalars: [S] `scalars` of the step.
            sizes: Entries of each parameter tensor, which add up to P.

        Returns:
            What is added to the parameters [P], and the slots after the step.
        """


def rms_of_tensors(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """The root of the mean square over the entries of each tensor, at each of its entries: [P, F] -> [P, F]."""
    parts: Sequence[Tensor] = torch.split(x, list(sizes))
    squares = [part.square().mean(0, keepdim=True).expand(len(part), -1) for part in parts]
    # The smallest squares that float32 holds with all digits, so that the root of zero has a derivative.
    return (torch.cat(squares) + SMALLEST).sqrt()


SMALLEST = 1e-30
EPSILON = 1e-8
"""Added to the root of the squared gradients, as in Adam."""


def second_root(second: Tensor) -> Tensor:
    """The root of the mean squared gradient; the epsilon under it keeps the derivative at zero finite."""
    return (second + EPSILON**2).sqrt() + EPSILON
