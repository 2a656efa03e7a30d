"""Interface of backbone networks: pure functions of a flat mapping of parameters.

Everything else that a forward pass reads or leaves behind (running statistics, seeds of dropout, the outputs of layers)
is in its `Frame`. `Network` makes the frames, so that learners need not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from distmeta.core.errors import UserError
from distmeta.core.types import Params, TokenIds

HEAD = "head"
MEMORY = "memory"
"""Name of the tap and the group of a policy's memory."""
TRANSDUCTIVE, INDUCTIVE = "transductive", "inductive"
"""Protocols: whether the prediction for a query may depend on the other queries (batch norm by the query batch)."""


@dataclass
class Frame:
    """What one forward pass reads and records besides parameters and inputs.

    Attributes:
        training: Whether random layers draw and running statistics move.
        context: [N, ...] examples (the support set) whose statistics inductive batch norm uses.
        buffers: Running statistics; layers replace the entries that they move.
        seed: int64 [], seed of the random layers.
        taps: Outputs of layers by name, recorded by `tap`; None if nobody asks for them.
        places: Tokens that the texts of the pass fit into, end to end; None if that is not known.
        share: Batch norm that keeps running statistics normalises by a mixture of those of the batch, with this weight,
            and of the running ones, and keeps the mixture as running statistics. None: by the protocol.
    """

    training: bool = True
    context: Tensor | None = None
    buffers: Params = field(default_factory=dict)
    seed: Tensor | None = None
    taps: Params | None = None
    places: int | None = None
    share: float | None = None

    def tap(self, name: str, x: Tensor) -> Tensor:
        """Record the output of a layer; returns it."""
        if self.taps is not None:
            self.taps[name] = x
        return x


class Backbone(ABC):
    """A feature extractor (body) and linear heads on its features.

    Shapes: B examples, D features, O outputs of a head.

    Attributes:
        heads: Number of outputs by name of the head.
        num_features: D.
        protocols: The protocols that the network can follow, the preferred one first.
        protocol: The one that it follows.
        is_row_wise: Whether the output for an example depends on no other example of its batch.
        is_random: Whether it draws random numbers (dropout), from the seeds of tasks.
        has_head: Whether it has linear heads; without, the features of the body are the outputs.
        limits: What cannot be done with it, and why: keys are `second_order`, `vmap` and `compile`.
        tokens: Token ids that it knows, if its inputs are texts.
        isolates_tasks: Whether products with meta-parameters are made task by task under `vmap`, so that the bits of a
            task do not depend on how many there are.
        acts: Whether it is a policy, which only interactive tasks have a use for.
        memory: M, numbers that a policy remembers from one step of a trial to the next; 0: none. With a memory, inputs
            are whole trials [B, H, F], whose features are [B, H, D], or single steps [B, F + M]: observations, then the
            memory before the step. The tap `memory` is what it remembers after the step.
    """

    heads: Mapping[str, int]
    num_features: int
    protocols: tuple[str, ...] = (INDUCTIVE,)
    protocol: str = INDUCTIVE
    is_row_wise: bool = True
    is_random: bool = False
    has_head: bool = True
    limits: Mapping[str, str] = MappingProxyType({})
    tokens: TokenIds | None = None
    isolates_tasks: bool = False
    acts: bool = False
    memory: int = 0

    @property
    def num_outputs(self) -> int:
        """Outputs of the head named `head`."""
        return self.heads[HEAD]

    @abstractmethod
    def init(self, seed: int) -> Params:
        """Initial parameters, a pure function of the seed."""

    def buffers(self) -> Params:
        """Initial running statistics: tensors that forward passes move and gradients do not."""
        return {}

    def under(self, protocol: str) -> Backbone:
        """The same network under one of its protocols."""
        assert protocol in self.protocols, protocol
        return self

    @abstractmethod
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """Compute the features of the body: [B, ...] -> [B, D]."""

    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        """A last layer: [B, D] -> [B, O]."""
        return features @ params[f"{head}.weight"].T + params[f"{head}.bias"]

    def words(self, where: str) -> Callable[[Tensor], Tensor]:
        """The words that the network predicts behind a text: a function of token ids int64 [...] that gives vectors
        [..., D]. Features times the vector of a word are its score, up to what all words share.

        Args:
            where: Field of the configuration that asks for them, for messages.

        Raises:
            UserError: The network predicts no words, or its features are not what predicts them.
        """
        raise UserError("the network predicts no words", where=where, allowed="a decoder (model.kind 'transformer')")

    @abstractmethod
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Parameter names by group: `all`, `body`, every head, and groups of the network (`norm`, `block1`, ...)."""

    def blocks(self) -> tuple[str, ...]:
        """The groups that make up the body, from the inputs to the features."""
        return ("body",)

    def head_names(self, head: str) -> tuple[str, ...]:
        """Names of the parameters of a head."""
        return (f"{head}.weight", f"{head}.bias")
