"""Fully connected network with a memory, a gated recurrent unit (GRU, Cho et al. 2014, arXiv 1406.1078), at its end.

    (r, z) = sigmoid(W_rz x + b_rz + U_rz h + c_rz)
    n      = tanh(W_n x + b_n + r * (U_n h + c_n))
    h'     = (1 - z) * n + z * h                          h = 0 before the first step

as torch's, with the reset gate behind the product. Parameters are `memory.input.weight` [3 M, D], `memory.state.weight`
[3 M, M] and their biases, in torch's order r, z, n.

Shapes: B trials, H steps, F numbers of an observation, M units of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.bounds import MAX_PARAMETERS
from distmeta.config.models import MlpConfig
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import MEMORY, Backbone, Frame
from distmeta.models.heads import init_heads, with_heads
from distmeta.models.mlp import Mlp


class Recurrent(Backbone):
    """Hidden layers `block1 .. blockL` and `memory` as the body, and linear heads (see `Backbone.memory`).

    Args:
        config: The hidden layers.
        memory: M.
        input_shape: Shape of an observation.
        heads: Number of outputs by name of the head.
        dtype: Type of the parameters.

    Raises:
        UserError: The network would be too large.
    """

    def __init__(
        self,
        config: MlpConfig,
        memory: int,
        input_shape: tuple[int, ...],
        heads: Mapping[str, int],
        dtype: torch.dtype,
    ) -> None:
        self._mlp, self._dtype = Mlp(config, input_shape, {}, dtype), dtype
        self.heads, self.memory, self.num_features = dict(heads), memory, memory
        self._sizes = {"input": self._mlp.num_features, "state": memory}
        count = sum(3 * memory * (size + 1) for size in self._sizes.values())
        if count > MAX_PARAMETERS:
            what = f"a memory of {memory} units on {self._mlp.num_features} features has {count} parameters"
            raise UserError(what, where="model.memory", allowed=f"at most {MAX_PARAMETERS} parameters")

    @override
    def init(self, seed: int) -> Params:
        """Hidden layers and heads as those of `mlp`; the memory uniform in +-1 / sqrt(M), as torch's."""
        params, rng = self._mlp.init(seed), torch.Generator().manual_seed(mix(seed, MEMORY))
        bound = 1 / math.sqrt(self.memory)
        for name, size in self._sizes.items():
            for end, shape in (("weight", (3 * self.memory, size)), ("bias", (3 * self.memory,))):
                drawn = torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 1
                params[f"{MEMORY}.{name}.{end}"] = (bound * drawn).to(self._dtype)
        return params | init_heads(self, seed, rng, self._dtype)

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """Trials [B, H, F] -> [B, H, M], or steps [B, F + M] -> [B, M]."""
        if inputs.dim() == 2:
            observations, memory = inputs[:, : -self.memory], inputs[:, -self.memory :]
            below = self._mlp.features(params, observations, frame)
            return frame.tap(MEMORY, self._step(params, self._from_input(params, below), memory))
        below = self._mlp.features(params, inputs.flatten(0, 1), frame)
        gates = self._from_input(params, below).reshape(*inputs.shape[:2], -1)
        memory, memories = gates.new_zeros(len(inputs), self.memory), []
        for each in gates.unbind(1):
            memory = self._step(params, each, memory)
            memories.append(memory)
        return frame.tap(MEMORY, torch.stack(memories, 1))

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body`, every head, each `blockL`, `memory`, and `context` where there is one."""
        below = self._mlp.groups()
        names = tuple(f"{MEMORY}.{name}.{end}" for name in self._sizes for end in ("weight", "bias"))
        blocks = {name: below[name] for name in below if name not in ("all", "body")}
        return with_heads(self, {**blocks, MEMORY: names})

    @override
    def blocks(self) -> tuple[str, ...]:
        return (*self._mlp.blocks(), MEMORY)

    def _from_input(self, params: Mapping[str, Tensor], below: Tensor) -> Tensor:
        return below @ params[f"{MEMORY}.input.weight"].T + params[f"{MEMORY}.input.bias"]

    def _step(self, params: Mapping[str, Tensor], from_input: Tensor, memory: Tensor) -> Tensor:
        """The memory [B, M] after a step, from the input's share [B, 3 M] of the gates."""
        from_memory = memory @ params[f"{MEMORY}.state.weight"].T + params[f"{MEMORY}.state.bias"]
        size = 2 * self.memory
        reset, keep = torch.sigmoid(from_input[:, :size] + from_memory[:, :size]).chunk(2, -1)
        candidate = torch.tanh(from_input[:, size:] + reset * from_memory[:, size:])
        return candidate + keep * (memory - candidate)
