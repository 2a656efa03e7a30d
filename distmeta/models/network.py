"""A backbone together with the running statistics and seeds of one task: what learners call.

    features = net.features(params, inputs)                 [B, ...] -> [B, D]
    outputs  = net(params, inputs, head="head")             [B, ...] -> [B, O]

In training mode each call moves `net.buffers`. The engine makes one for every operation, and takes the buffers from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from distmeta.core.types import Params
from distmeta.models.base import HEAD, Backbone, Frame


class Network:
    """Calls a backbone with frames.

    Args:
        backbone: The network.
        buffers: Running statistics.
        seed: int64 [], seed of the random layers; None if it has none.
        training: Whether random layers draw and running statistics move.
        places: Tokens that texts fit into, end to end, by the number of texts.
        tapped: Record the outputs of layers in every call.

    Attributes:
        backbone: The network.
        buffers: Running statistics after the calls so far.
        taps: Outputs of layers of the last call, if it was asked to record them.
    """

    def __init__(
        self,
        backbone: Backbone,
        buffers: Params | None = None,
        seed: Tensor | None = None,
        *,
        training: bool = True,
        places: Mapping[int, int] | None = None,
        tapped: bool = False,
    ) -> None:
        self.backbone, self.buffers, self.taps = backbone, buffers or {}, Params()
        self._seed, self._training, self._places, self._tapped = seed, training, places or {}, tapped

    def fork(self) -> Network:
        """A copy, for code whose values must not leak into this one (`torch.func.grad`)."""
        return Network(self.backbone, dict(self.buffers), self._seed, training=self._training, places=self._places)

    def features(
        self,
        params: Mapping[str, Tensor],
        inputs: Tensor,
        context: Tensor | None = None,
        *,
        tapped: bool = False,
        share: float | None = None,
    ) -> Tensor:
        """Features of the body.

        Args:
            params: Parameters by name.
            inputs: [B, ...].
            context: [N, ...] support examples, whose statistics inductive batch norm uses.
            tapped: Record the outputs of layers in `taps`.
            share: Normalise by a mixture of the batch's and the running statistics, and keep it (see `Frame`).

        Returns:
            [B, D].
        """
        places = self._places.get(len(inputs)) if self._places else None
        taps = Params() if tapped or self._tapped else None
        frame = Frame(self._training, context, dict(self.buffers), self._seed, taps, places, share)
        features = self.backbone.features(params, inputs, frame)
        self.buffers, self.taps = frame.buffers, frame.taps or {}
        return features

    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        """A last layer: [B, D] -> [B, O]."""
        return self.backbone.head(params, features, head)

    def __call__(
        self, params: Mapping[str, Tensor], inputs: Tensor, context: Tensor | None = None, *, head: str = HEAD
    ) -> Tensor:
        """Body and a head: [B, ...] -> [B, O]."""
        return self.head(params, self.features(params, inputs, context), head)
