"""The inner problem of a learner: the parts that act on it, together (`distmeta.methods.learners.inner.base`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, vmap
from torch.func import vjp

from distmeta.config.inner import InnerPart as InnerPartConfig
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Batch, Params
from distmeta.methods.learners.inner import INNER
from distmeta.methods.learners.inner.base import PREFIX, Rates
from distmeta.methods.objectives import Objective

Outputs = Callable[[Params], tuple[Tensor, Params]]
"""Values of the parameters that a step moves -> outputs [N, O] for its examples, and running statistics."""


class InnerProblem:
    """The parts in order.

    Args:
        configs: Their settings.
        groups: The network's parameter groups.
        where: Field of the configuration that they are, for messages.

    Attributes:
        by_example: Whether losses of single examples are needed.
        needs_anchor: Whether the values before the phase are.

    Raises:
        UserError: An unknown parameter group is named.
    """

    def __init__(self, configs: Sequence[InnerPartConfig], groups: dict[str, tuple[str, ...]], where: str) -> None:
        self._parts = [INNER[config.kind](config, groups, f"{where}.{i}") for i, config in enumerate(configs)]
        self.by_example = any(config.acts_on_examples for config in configs)
        self.needs_anchor = any(part.needs_anchor for part in self._parts)

    def init(self, seed: int, dtype: torch.dtype) -> Params:
        """Initial meta-parameters `inner.*`, a pure function of the seed."""
        rng, params = torch.Generator().manual_seed(mix(seed, PREFIX)), Params()
        for part in self._parts:
            params |= part.init(rng, dtype)
        return params

    def rates(self, meta: Params, rates: Rates) -> Rates:
        """The inner rates, from those of the phase."""
        for part in self._parts:
            rates = part.rates(meta, rates)
        return rates

    def penalised(self, loss: Tensor, meta: Params, moving: Params, anchor: Params) -> Tensor:
        """An inner loss with the penalties of the parts."""
        for part in self._parts:
            penalty = part.penalty(meta, moving, anchor)
            loss = loss if penalty is None else loss + penalty
        return loss

    def gradient(
        self,
        meta: Params,
        moving: Params,
        outputs_of: Outputs,
        objective: Objective,
        batch: Batch,
        penalised: Callable[[Tensor, Params], Tensor],
    ) -> tuple[Params, Params]:
        """The direction of an inner step on weighted examples, and running statistics.

        Args:
            meta: Meta-parameters.
            moving: The parameters that the step moves.
            outputs_of: The network.
            objective: That of the phase.
            batch: The N examples.
            penalised: Adds penalties of the moving parameters to a loss.
        """

        def losses_of(moving: Params) -> tuple[tuple[Tensor, Tensor], Params]:
            outputs, buffers = outputs_of(moving)
            losses = example_losses(objective, outputs, batch)
            for part in self._parts:
                losses = part.losses(meta, losses, outputs, batch)
            return (losses, penalised(losses.new_zeros(()), moving)), buffers

        (losses, penalty), pullback, buffers = vjp(losses_of, moving, has_aux=True)  # type: ignore[misc]
        weights = torch.full_like(losses, 1 / len(losses))
        for part in self._parts:
            weights = part.weights(meta, weights, losses)
        (gradient,) = pullback((weights, torch.ones_like(penalty)))
        return gradient, buffers


def example_losses(objective: Objective, outputs: Tensor, batch: Batch) -> Tensor:
    """What an objective gives for each example alone: [N].

    Args:
        objective: The objective.
        outputs: [N, O] outputs for the inputs of `batch`.
        batch: N examples.

    Raises:
        UserError: The objective calls the network with other inputs than those of the batch.
    """

    def one(row: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        example = batch.rebuild([tensor[None] for tensor in tensors])

        def forward(inputs: Tensor) -> Tensor:
            if inputs is not example.inputs:
                what = "the objective applies the network to other inputs than those of the examples"
                raise UserError(what, where="algorithm.learner.inner", allowed="objectives of outputs and targets")
            return row[None]

        return objective(forward, example)[0]

    losses: Tensor = vmap(one)(outputs, batch.tensors())
    return losses
