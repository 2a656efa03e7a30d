"""What is added to a frozen network: parameters with their initial values, and how layers use them.

Every part leaves the network as it was until it is trained, but for prefixes without a gate. Initial values are a pure
function of the seed and the parameter's name.

Shapes: r rank or width, I inputs and O outputs of a layer, V positions of a prefix, H heads, D numbers a head.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from distmeta.config.petl import AdapterConfig, Ia3Config, LoraConfig, PrefixConfig
from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.models.petl.call import Call, Prefix
from distmeta.models.petl.families import block_of, check_blocks, find_layers, role_of
from distmeta.models.petl.frozen import whole
from distmeta.models.petl.sites import Site

Make = Callable[[torch.Generator], Tensor]
PREFIX_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """What parts need to know of a network.

    Attributes:
        sites: Its linear layers by name.
        num_blocks: Number of blocks.
        num_heads: Heads of queries.
        num_key_heads: Heads of keys and values.
        head_size: D.
    """

    sites: Mapping[str, Site]
    num_blocks: int
    num_heads: int
    num_key_heads: int
    head_size: int


class Part(ABC):
    """One kind of tunable parameters.

    Attributes:
        kind: `lora`, `adapter`, ...
        makes: How each parameter gets its initial value, by name.
    """

    kind: str

    def __init__(self) -> None:
        self.makes: dict[str, Make] = {}

    def init(self, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Initial values."""
        values = {}
        for name, make in self.makes.items():
            values[name] = make(torch.Generator().manual_seed(mix(seed, "petl", name))).to(dtype)
        return values

    def begin(self, call: Call) -> None:
        """Prepare a forward pass."""
        return


class Lora(Part):
    """`y + alpha / r * (x A^T) B^T`, A [r, I] as in the package peft (uniform, Kaiming), B [O, r] zero.

    Attributes:
        config: Its configuration.
        paths: Layers that have it.
    """

    kind = "lora"

    def __init__(self, config: LoraConfig, shape: Shape, where: str) -> None:
        super().__init__()
        scale = config.alpha / config.rank
        self.config = config
        self.paths = find_layers(list(shape.sites), config.targets, config.layers, f"{where}.targets")
        for path in self.paths:
            site, down, up = shape.sites[path], f"{path}.lora_A", f"{path}.lora_B"
            self.makes[down] = _uniform((config.rank, site.num_inputs), 1 / math.sqrt(site.num_inputs))
            self.makes[up] = _constant((site.num_outputs, config.rank), 0.0)
            site.after.append(self._edit(down, up, scale))

    def _edit(self, down: str, up: str, scale: float) -> Callable[[Call, Tensor, Tensor], Tensor]:
        def edit(call: Call, x: Tensor, y: Tensor) -> Tensor:
            low = x @ (call.params[down].T * scale)
            return y + low @ call.params[up].T

        return edit


class Adapter(Part):
    """A bottleneck behind or beside the attention or feed-forward part of blocks; `up` is zero."""

    kind = "adapter"

    def __init__(self, config: AdapterConfig, shape: Shape, where: str) -> None:
        super().__init__()
        check_blocks(config.layers, shape.num_blocks, f"{where}.layers")
        self._scale = config.scale
        self._activation = functional.relu if config.activation == "relu" else functional.gelu
        for at in config.at:
            for begin, end in _spans(shape, at, config.layers, where):
                name = f"{end.path}.{config.form}"
                self._add(name, begin.num_inputs if config.form == "parallel" else end.num_outputs, end, config.width)
                if config.form == "sequential":
                    end.after.append(self._sequential(name))
                else:
                    begin.before.insert(0, _keep(name))
                    end.after.append(self._parallel(name))

    def _add(self, name: str, num_inputs: int, end: Site, width: int) -> None:
        self.makes[f"{name}.down.weight"] = _uniform((width, num_inputs), math.sqrt(3 / num_inputs))
        self.makes[f"{name}.down.bias"] = _constant((width,), 0.0)
        self.makes[f"{name}.up.weight"] = _constant((end.num_outputs, width), 0.0)
        self.makes[f"{name}.up.bias"] = _constant((end.num_outputs,), 0.0)

    def _sequential(self, name: str) -> Callable[[Call, Tensor, Tensor], Tensor]:
        return lambda call, x, y: y + self._bottleneck(call, name, y)

    def _parallel(self, name: str) -> Callable[[Call, Tensor, Tensor], Tensor]:
        return lambda call, x, y: y + self._bottleneck(call, name, call.scratch.pop(name))

    def _bottleneck(self, call: Call, name: str, x: Tensor) -> Tensor:
        down, down_bias, up, up_bias = (
            call.params[f"{name}.{end}"] for end in ("down.weight", "down.bias", "up.weight", "up.bias")
        )
        hidden = self._activation(x @ down.T + down_bias)
        return (hidden @ up.T + up_bias) * self._scale


class Ia3(Part):
    """Factors of outputs and inputs of layers; all ones."""

    kind = "ia3"

    def __init__(self, config: Ia3Config, shape: Shape, where: str) -> None:
        super().__init__()
        paths = list(shape.sites)
        for path in find_layers(paths, config.targets, config.layers, f"{where}.targets"):
            name, site = f"{path}.ia3", shape.sites[path]
            self.makes[name] = _constant((site.num_outputs,), 1.0)
            site.after.append(lambda call, x, y, name=name: y * call.params[name])  # type: ignore[misc]
        for path in find_layers(paths, config.inputs, config.layers, f"{where}.inputs"):
            name, site = f"{path}.ia3_input", shape.sites[path]
            self.makes[name] = _constant((site.num_inputs,), 1.0)
            site.before.append(lambda call, x, name=name: x * call.params[name])  # type: ignore[misc]


class PrefixPart(Part):
    """Keys and values [V, H, D] of each block, or the network that makes them.

    Attributes:
        config: Its configuration.
        blocks: Blocks that have it.
    """

    kind = "prefix"

    def __init__(self, config: PrefixConfig, shape: Shape, where: str) -> None:
        super().__init__()
        self._shape, self.config = shape, config
        blocks = tuple(range(shape.num_blocks)) if config.layers is None else config.layers
        check_blocks(blocks, shape.num_blocks, f"{where}.layers")
        self.blocks = blocks
        width = shape.num_key_heads * shape.head_size
        entries = (config.length, shape.num_key_heads, shape.head_size)
        if config.hidden is not None:
            rows = len(blocks) * 2 * width
            self.makes["prefix.embedding"] = _normal((config.length, width), PREFIX_STD)
            self.makes["prefix.down.weight"] = _uniform((config.hidden, width), math.sqrt(3 / width))
            self.makes["prefix.down.bias"] = _constant((config.hidden,), 0.0)
            self.makes["prefix.up.weight"] = _uniform((rows, config.hidden), math.sqrt(3 / config.hidden))
            self.makes["prefix.up.bias"] = _constant((rows,), 0.0)
        for block in blocks:
            if config.hidden is None:
                self.makes[f"prefix.{block}.keys"] = _normal(entries, PREFIX_STD)
                self.makes[f"prefix.{block}.values"] = _normal(entries, PREFIX_STD)
            if config.gate:
                self.makes[f"prefix.{block}.gate"] = _constant((shape.num_heads,), 0.0)

    @override
    def begin(self, call: Call) -> None:
        made = self._made(call.params) if self.config.hidden is not None else None
        for i, block in enumerate(self.blocks):
            if made is None:
                keys, values = (call.params[f"prefix.{block}.{end}"] for end in ("keys", "values"))
            else:
                keys, values = made[:, 2 * i], made[:, 2 * i + 1]
            gate = call.params[f"prefix.{block}.gate"] if self.config.gate else None
            call.prefixes[block] = Prefix(keys, values, gate)

    def keys_and_values(self, params: Mapping[str, Tensor]) -> Tensor:
        """[V, 2 * blocks, H, D]: keys and values of each block in turn."""
        if self.config.hidden is not None:
            return self._made(params)
        names = [f"prefix.{block}.{end}" for block in self.blocks for end in ("keys", "values")]
        return torch.stack([params[name] for name in names], dim=1)

    def _made(self, params: Mapping[str, Tensor]) -> Tensor:
        """Keys and values of all blocks: [V, 2 * blocks, H, D]."""
        hidden = params["prefix.embedding"] @ params["prefix.down.weight"].T + params["prefix.down.bias"]
        made = torch.tanh(hidden) @ params["prefix.up.weight"].T + params["prefix.up.bias"]
        return made.reshape(self.config.length, -1, self._shape.num_key_heads, self._shape.head_size)


class Own(Part):
    """Some of the network's own weights, from their values.

    Args:
        kind: `bitfit` or `full`.
        names: Their names.
        network: The network.
    """

    def __init__(self, kind: str, names: Sequence[str], network: nn.Module) -> None:
        super().__init__()
        self.kind = kind
        weights = dict(network.named_parameters())
        for name in names:
            self.makes[name] = partial(_value_of, weights[name])


def _spans(shape: Shape, at: str, blocks: Sequence[int] | None, where: str) -> list[tuple[Site, Site]]:
    """The first and the last layer of a part of each block."""
    first, last = (("query", "fused"), "output") if at == "attention" else (("ffn_in",), "ffn_out")
    begins: dict[int | None, Site] = {}
    spans: list[tuple[Site, Site]] = []
    for path, site in shape.sites.items():
        role = role_of(path)
        if role in first:
            begins.setdefault(block_of(path), site)
        if role == last and (blocks is None or block_of(path) in blocks):
            if block_of(path) not in begins:
                continue
            spans.append((begins[block_of(path)], site))
    if not spans:
        allowed = "a network of a family in distmeta.models.petl.families, and blocks that it has"
        raise UserError(f"the network has no {at} part that is known", where=f"{where}.at", allowed=allowed)
    return spans


def _value_of(weight: Tensor, _: torch.Generator) -> Tensor:
    with whole(weight) as values:
        return values.detach().clone()


def _keep(name: str) -> Callable[[Call, Tensor], Tensor]:
    """Keep the input of a part for its end."""

    def keep(call: Call, x: Tensor) -> Tensor:
        call.scratch[name] = x
        return x

    return keep


def _uniform(shape: tuple[int, ...], bound: float) -> Make:
    return lambda rng: (torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 1) * bound


def _normal(shape: tuple[int, ...], deviation: float) -> Make:
    return lambda rng: torch.randn(shape, generator=rng, dtype=torch.float64) * deviation


def _constant(shape: tuple[int, ...], value: float) -> Make:
    return lambda _: torch.full(shape, value, dtype=torch.float64)


PARTS: dict[str, Callable[[Any, Shape, str], Part]] = {
    "lora": Lora,
    "adapter": Adapter,
    "ia3": Ia3,
    "prefix": PrefixPart,
}
"""Parts by `kind`; `mam` is two of them, and `bitfit` and `full` are weights of the network itself."""
