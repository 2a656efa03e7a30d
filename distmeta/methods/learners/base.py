"""Interface of learners: pure functions that adapt to one task.

A learner that adapts in closed form (prototypes, ridge regression) has `start` and `predict` alone. One that adapts
step by step also says what each step does (`stages`) and how a step is taken (`advance`). Who runs the steps, for how
many tasks at once and with or without derivatives, is the engine's business (`distmeta.engine.ops`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from distmeta.core.types import SUPPORT, Batch, Episode, Params
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

if TYPE_CHECKING:
    from distmeta.methods.learners.rules.base import UpdateRule

Fast = Any
"""Adapted state (fast weights, prototypes): a pytree of dicts, tuples and tensors that only its learner interprets."""


@dataclass(frozen=True)
class Stage:
    """What one inner step does differently from others. Steps of one kind share a compiled graph.

    Attributes:
        kind: Steps of the same kind run the same operations; kinds are numbered from 0.
        role: Role whose examples the step uses.
        rows: Indices of the examples that it uses; None for all.
        scalars: Numbers that only this step uses (Adam's bias corrections).
    """

    kind: int = 0
    role: str = SUPPORT
    rows: tuple[int, ...] | None = None
    scalars: tuple[float, ...] = ()

    def select(self, task: Episode, *, axis: int = 0) -> Batch:
        """The examples that this step uses; `axis` is the axis of the examples."""
        batch = task[self.role]
        if self.rows is None:
            return batch
        rows = torch.tensor(self.rows, device=batch.inputs.device)
        return batch.map(lambda tensor: tensor.index_select(axis, rows))


class Proximal(NamedTuple):
    """A proximal inner problem, argmin_phi L(phi) + l2sp / 2 * |phi - anchor|^2, at an approximate solution.

    Attributes:
        solution: The tensors of the adapted state that solve it, by name.
        rate: `lr * l2sp` of the last inner step, `phi - lr * (grad L(phi) + l2sp * (phi - anchor))`.
    """

    solution: Params
    rate: float


class OwnHead(NamedTuple):
    """Outputs that a learner computes beside its predictions; terms ask for them by the name of a head.

    Attributes:
        role: Role whose examples they belong to; None for any.
        objective: Name of the objective that reads them; None for that of the tasks.
    """

    role: str | None = None
    objective: str | None = None


class Learner(ABC):
    """Pure functions for one task; the engine lifts them to functions of T tasks. Arguments are never changed.

    Every function gets the network with the task's running statistics and seed (`net`), to call it with any parameters.

    Shapes: B inputs, O outputs, S scalars.

    Args:
        backbone: The network.

    Attributes:
        backbone: The network.
        roles: Roles that adaptation reads; it is shown no other.
        fresh: Names of parameters that start anew for each task, whatever the meta-parameters say.
        fixed: Names of meta-parameters that have no outer signal (`algorithm.fixed`): they stay as they were at first.
        step_order: Order of the derivatives that an inner step takes.
        reads_features_only: Whether it uses the network for nothing but the features of examples by the
            meta-parameters, so that evaluation may compute those of each example once.
        draws: Whether it draws random numbers, from the seeds of tasks.
        rule: If what it learns is how to train the network, the update rule, whose parameters are `own(meta)`.
        own_heads: If it uses no head of the network, the heads of its own by name, beside its predictions (`head`).
        asks: Whether the tasks are interactive, so that their examples are known only when a step is taken.
    """

    roles: tuple[str, ...] = (SUPPORT,)
    fresh: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    step_order: int = 1
    reads_features_only: bool = False
    draws: bool = False
    rule: UpdateRule | None = None
    own_heads: Mapping[str, OwnHead] | None = None
    asks: bool = False

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @property
    def limits(self) -> Mapping[str, str]:
        """What cannot be done with it, and why (see `Backbone.limits`)."""
        asked = {"compile": "interactive tasks are asked between its steps"} if self.asks else {}
        return {**asked, **self.backbone.limits}

    def init(self, seed: int) -> Params:
        """Initial meta-parameters, a pure function of the seed: by default, those of the network."""
        return self.backbone.init(seed)

    def own(self, meta: Params) -> Params:
        """The learner's own parameters among the meta-parameters, by their names there without a prefix."""
        raise NotImplementedError(f"{type(self).__name__} has no parameters of its own")

    @abstractmethod
    def start(self, net: Network, meta: Params, task: Episode) -> Fast:
        """The adapted state before the first inner step; for a learner without steps, the adapted state."""

    def stages(self, rows: Mapping[str, int]) -> Sequence[Stage]:
        """What each inner step does, for tasks with so many examples of each role."""
        return ()

    def advance(self, net: Network, meta: Params, fast: Fast, batch: Batch, kind: int, scalars: Tensor) -> Fast:
        """Take one inner step.

        Args:
            net: The network.
            meta: Meta-parameters.
            fast: The adapted state before the step.
            batch: The examples that `Stage.select` returns.
            kind: `Stage.kind`.
            scalars: [S] `Stage.scalars` in the type of the meta-parameters.

        Returns:
            The adapted state after the step.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no inner steps")

    @abstractmethod
    def predict(
        self, net: Network, meta: Params, fast: Fast, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Outputs [B, O] of the adapted learner for `inputs` [B, ...]; `task` has the roles of adaptation."""

    def forward(self, net: Network, meta: Params, inputs: Tensor, *, head: str = HEAD) -> Tensor:
        """Outputs [B, O] of the meta-parameters without adaptation (joint training)."""
        return net(meta, inputs, head=head)

    def displacement(self, meta: Params, fast: Fast) -> Params:
        """`meta - fast` for meta-parameters that adaptation changes, zero for the others (Reptile's outer signal)."""
        return {name: torch.zeros_like(tensor) for name, tensor in meta.items()}

    def proximal(self, fast: Fast) -> Proximal:
        """The inner problem that the inner steps solve (iMAML); its tensors are those of `fast`, not copies."""
        raise NotImplementedError(f"{type(self).__name__} solves no proximal problem")
