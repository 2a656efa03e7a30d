"""A network of cells whose edges mix operations (DARTS, Liu, Simonyan & Yang 2019, arXiv 1806.09055).

    node_0 = input of the cell
    node_j = sum_{i < j}  sum_o  softmax(a_ij)_o  o(node_i)                 a: `architecture.mixing`, [E, P]
    output = mean of node_1 .. node_J

All cells have the same mixing weights a, which are zero at first: all operations alike. With a learner that does not
move the group `architecture` they are meta-parameters of all tasks (as in T-NAS, Lian et al. 2020, and MetaNAS, Elsken
et al. 2020, arXiv 1911.11090, whose tasks may move them as well). After training, the operation with the largest weight
of each edge is read off (`mixing_weights`); a network with `chosen` has it alone.

    net    3x3 convolution of stride 2, batch norm, ReLU; cells with 2x2 max pooling between them; mean over the pixels

Deviations from the paper: one input of a cell where theirs has the outputs of two cells before it; cells of one kind,
with pooling between them; plain convolutions where theirs are separable and dilated; the mean of the nodes where theirs
are joined; `zero` may be chosen.

Shapes: B images, E edges, P operations, C channels, D = C features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config import MixedConfig
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import INDUCTIVE, TRANSDUCTIVE, Backbone, Frame
from distmeta.models.convolution import conv3x3
from distmeta.models.heads import init_heads, with_heads
from distmeta.models.operations import KERNELS, OPERATIONS, normalised

ARCHITECTURE = "architecture"
MIXING = f"{ARCHITECTURE}.mixing"
_STEM = "block1"


class Mixed(Backbone):
    """A convolution, cells and linear heads: `block1`, `block2`, ...

    Args:
        config: Channels, cells, operations.
        input_shape: (channels, height, width).
        heads: Number of outputs by name of the head.
        dtype: Type of the parameters.

    Raises:
        UserError: The input is not an image, or too small for the poolings.
    """

    protocols = (TRANSDUCTIVE, INDUCTIVE)
    is_row_wise = False

    def __init__(
        self, config: MixedConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
    ) -> None:
        least = 2**config.cells - 1
        if len(input_shape) != 3 or min(input_shape[1:]) < least:
            what = f"{config.cells} cells take images of {least}x{least} pixels or more, not inputs of {input_shape}"
            raise UserError(what, where="model.cells", allowed="fewer cells, tasks of larger images, or model.kind mlp")
        self.heads, self.num_features = dict(heads), config.filters
        self._config, self._channels, self._dtype = config, input_shape[0], dtype
        self.protocol = TRANSDUCTIVE if config.norm == "batch" else INDUCTIVE
        self._build = partial(Mixed, input_shape=input_shape, heads=heads, dtype=dtype)

    @override
    def under(self, protocol: str) -> Mixed:
        """Transductive with the statistics of the batch, inductive with those of the support set."""
        norm = {TRANSDUCTIVE: "batch", INDUCTIVE: "support"}[protocol]
        return self._build(self._config.model_copy(update={"norm": norm}))

    @override
    def init(self, seed: int) -> Params:
        """Weights Xavier-uniform, biases zero, norm scales one, mixing weights zero."""
        rng, config = torch.Generator().manual_seed(mix(seed, "mixed")), self._config
        params: Params = {}
        if config.chosen is None:
            params[MIXING] = torch.zeros(len(config.edges), len(config.operations), dtype=self._dtype)
        params |= self._init_conv(_STEM, (config.filters, self._channels, 3, 3), rng)
        for cell in self._cells():
            for name, operation in self._operations(cell):
                kernel = KERNELS.get(operation)
                sides = () if kernel == 1 else (3, 3)
                params |= self._init_conv(name, (config.filters, config.filters, *sides), rng) if kernel else {}
        return params | init_heads(self, seed, rng, self._dtype)

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        """[B, C, H, W] -> [B, D]. With norm `support`, the statistics are those of the context [N, C, H, W]."""
        context = frame.context if self._config.norm == "support" else None
        x = inputs if context is None else torch.cat((context, inputs))
        first = 0 if context is None else len(context)
        num_context = len(x) if context is None else first
        x = conv3x3(x, params[f"{_STEM}.conv.weight"], 2)
        x = torch.relu(normalised(x, num_context, params[f"{_STEM}.norm.weight"], params[f"{_STEM}.norm.bias"]))
        frame.tap(_STEM, x[first:])
        mixing = None if self._config.chosen is not None else torch.softmax(params[MIXING], 1)
        for number, cell in enumerate(self._cells()):
            x = self._cell(params, cell, F.max_pool2d(x, 2) if number else x, mixing, num_context)
            frame.tap(cell, x[first:])
        return x[first:].mean((2, 3))

    def _cell(
        self, params: Mapping[str, Tensor], cell: str, x: Tensor, mixing: Tensor | None, num_context: int
    ) -> Tensor:
        """A cell; `mixing` [E, P] are the weights of the operations, None where they are chosen."""
        nodes = [x]
        for edge, (before, after) in enumerate(self._config.edges):
            total = x.new_zeros(())
            for position, operation in enumerate(self._offered(edge)):
                value = OPERATIONS[operation](nodes[before], params, self._name(cell, edge, operation), num_context)
                total = total + (value if mixing is None else mixing[edge, position] * value)
            if after == len(nodes):
                nodes.append(total)
            else:
                nodes[after] = nodes[after] + total
        return torch.stack(nodes[1:]).mean(0)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body`, every head, `norm`, `architecture`, `block1` (the first convolution), `block2`, ... (cells);
        `outside`: the mixing weights, which belong to all cells.
        """
        parts = ("conv.weight", "norm.weight", "norm.bias")
        blocks = {_STEM: tuple(f"{_STEM}.{part}" for part in parts)}
        for cell in self._cells():
            names = [name for name, operation in self._operations(cell) if operation in KERNELS]
            blocks[cell] = tuple(f"{name}.{part}" for name in names for part in parts)
        mixing = () if self._config.chosen is not None else (MIXING,)
        blocks = {**({"outside": mixing} if mixing else {}), **blocks}
        norm = tuple(name for names in blocks.values() for name in names if ".norm." in name)
        return with_heads(self, blocks, norm=norm, architecture=mixing)

    @override
    def blocks(self) -> tuple[str, ...]:
        mixing = () if self._config.chosen is not None else ("outside",)
        return (*mixing, _STEM, *self._cells())

    def _cells(self) -> tuple[str, ...]:
        return tuple(f"block{number}" for number in range(2, self._config.cells + 2))

    def _operations(self, cell: str) -> list[tuple[str, str]]:
        """Prefix of the parameters and name of each operation of a cell."""
        edges = range(len(self._config.edges))
        return [(self._name(cell, edge, name), name) for edge in edges for name in self._offered(edge)]

    def _offered(self, edge: int) -> tuple[str, ...]:
        """What an edge mixes, or the one operation that has been chosen."""
        return self._config.operations if self._config.chosen is None else (self._config.chosen[edge],)

    def _name(self, cell: str, edge: int, operation: str) -> str:
        before, after = self._config.edges[edge]
        return f"{cell}.edge{before}{after}.{operation}"

    def _init_conv(self, name: str, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        bound = math.sqrt(6.0 / (math.prod(shape[2:]) * (shape[0] + shape[1])))
        weight = (torch.rand(*shape, generator=rng, dtype=torch.float64) * 2 - 1) * bound
        return {
            f"{name}.conv.weight": weight.to(self._dtype),
            f"{name}.norm.weight": torch.ones(shape[0], dtype=self._dtype),
            f"{name}.norm.bias": torch.zeros(shape[0], dtype=self._dtype),
        }


def mixing_weights(config: MixedConfig, params: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """The weights of the operations of each edge, by name; the operation of the largest one is chosen.

    Args:
        config: The network, without `chosen`.
        params: Its parameters.
    """
    weights = torch.softmax(params[MIXING].double(), 1).tolist()
    return [dict(zip(config.operations, of_edge, strict=True)) for of_edge in weights]
