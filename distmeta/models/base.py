"""Interface of backbone networks: pure functions of a flat mapping of parameters."""

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
    """

    num_outputs: int

    @abstractmethod
    def init(self, seed: int) -> Params:
        """Initial parameters, a pure function of the seed."""

    @abstractmethod
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Compute the features of the body.

        Args:
            params: Parameters by name.
            inputs: [B, ...] examples.
            context: [N, ...] examples (the support set) whose statistics inductive batch norm uses; ignored by networks
                without such a layer.

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
        """Parameter names by group: `all`, `body`, `head`, and groups of the network (`norm`, `block1`, ...)."""
