"""The network under adaptation, as pure functions of a flat mapping of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from distmeta.core.types import Params


class Backbone(ABC):
    """A feature extractor (body) and a last linear layer (head).

    Shapes: B examples, D features, O outputs.

    Attributes:
        num_outputs: O.
        max_order: Highest derivative order the network supports; None is any.
    """

    num_outputs: int
    max_order: int | None = None

    @abstractmethod
    def init(self, seed: int) -> Params:
        """Fresh parameters, a pure function of the seed."""

    @abstractmethod
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """The body.

        Args:
            params: Parameters by name.
            inputs: [B, ...] examples.
            context: [N, ...] examples (the support set) that inductive batch norm takes its statistics from; networks
                without such a layer ignore it.

        Returns:
            [B, D].
        """

    def head(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The last layer: [B, D] -> [B, O]."""
        return features @ params["head.weight"].T + params["head.bias"]

    def apply(self, params: Mapping[str, Tensor], inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Body and head: [B, ...] -> [B, O]."""
        return self.head(params, self.features(params, inputs, context))

    @abstractmethod
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Parameter names by group: `all`, `body`, `head`, and the network's own (`norm`, `block1`, ...)."""
