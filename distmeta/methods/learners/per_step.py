"""Parameters that have values of their own for each number of inner steps: scales and shifts of batch norm in MAML++
(Antoniou et al. 2019, arXiv 1810.09502, section 4: per-step weights and biases).

    theta_k = step.<name>[k]        used where k inner steps have been taken, k = 0 .. K;  moved by the outer loss alone

Shapes: K inner steps of all phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distmeta.core.types import Params
from distmeta.methods.learners.phases import group_names

PREFIX = "step."


class PerStep:
    """The parameters of some groups, by number of inner steps.

    Args:
        names: The groups.
        groups: The network's parameter groups.
        num_steps: K.
        where: Field of the configuration that names them, for messages.

    Attributes:
        names: The parameters.

    Raises:
        UserError: The network has no such group.
    """

    def __init__(self, names: Sequence[str], groups: dict[str, tuple[str, ...]], num_steps: int, where: str) -> None:
        chosen = {name for group in names for name in group_names(groups, group, where)}
        self.names = tuple(name for name in groups["all"] if name in chosen)
        self._num_steps = num_steps

    def init(self, params: Mapping[str, Tensor]) -> Params:
        """Initial parameters [K + 1, ...] `step.<name>`, equal for all numbers of steps, in place of `<name>`."""
        count, found = self._num_steps + 1, Params()
        for name, tensor in params.items():
            if name in self.names:
                found[PREFIX + name] = tensor.expand(count, *tensor.shape).clone()
            else:
                found[name] = tensor
        return found

    def before_steps(self, meta: Params) -> Params:
        """The values before the first step, by name."""
        return {name: meta[PREFIX + name][0] for name in self.names}

    def after_step(self, meta: Params, number: Tensor) -> Params:
        """The values after the step with a number [] from 0 on, by name.

        The number is data, so that all steps of a phase share one compiled graph.
        """
        found = {}
        for name in self.names:
            values = meta[PREFIX + name]
            steps = torch.arange(len(values), dtype=values.dtype, device=values.device)
            chosen = (steps == number + 1).reshape(-1, *([1] * (values.dim() - 1)))
            found[name] = torch.where(chosen, values, torch.zeros_like(values)).sum(0)
        return found
