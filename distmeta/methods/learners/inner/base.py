"""Interface of meta-parameters that act on the inner problem of a task ("theta = hyperparameters").

    losses_i  = objective of example i of a step, as the parts change it
    weights_i = 1 / N, or what a part makes of the losses; constant for the step
    direction = d/d fast  [ sum_i weights_i * losses_i(fast) + penalty(fast) ]
    fast     <- fast - rate * direction

Everything is differentiated by the meta-parameters: by those of the parts through direction and rate alone, which is
why they need the exact outer gradient. Weights are constant for the step, not for the outer gradient.

Shapes: N examples of a step, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from distmeta.core.types import Batch, Params

PREFIX = "inner"
Rates = Mapping[str, Tensor | float]


class InnerPart(ABC):
    """Meta-parameters `inner.*`, and what they change in an inner step. By default, nothing.

    Attributes:
        needs_anchor: Whether the penalty reads the values that the parameters had before the phase.
    """

    needs_anchor: bool = False

    @abstractmethod
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        """Initial meta-parameters by their full names."""

    def rates(self, meta: Params, rates: Rates) -> Rates:
        """The inner rates by name of the parameter, from those of the phase."""
        return rates

    def penalty(self, meta: Params, moving: Params, anchor: Params) -> Tensor | None:
        """What is added to the inner loss, [].

        Args:
            meta: Meta-parameters.
            moving: The parameters that the step moves.
            anchor: Their values before the phase.
        """
        return None

    def losses(self, meta: Params, losses: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
        """Losses [N] of the examples, from those so far.

        Args:
            meta: Meta-parameters.
            losses: [N].
            outputs: [N, O] outputs of the network.
            batch: The N examples.
        """
        return losses

    def weights(self, meta: Params, weights: Tensor, losses: Tensor) -> Tensor:
        """Weights [N] of the examples, from those so far [N] and the losses [N]."""
        return weights
