"""The layers of a loaded network, made functions of the call's parameters. Its classes and names stay as they are.

    y = edits(layer(edits(x)))

A site is the forward of one linear layer with what is added before and behind it. All other modules with weights read
those that are tuned from the call, and keep the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distmeta.core import ranks
from distmeta.models.layers import layer_norm
from distmeta.models.petl.attention import BLOCK
from distmeta.models.petl.call import Call, current
from distmeta.models.petl.families import block_of, is_block, role_of
from distmeta.models.petl.frozen import frozen_embedding, frozen_linear, is_linear, shape_of, with_matrices

Before = Callable[[Call, Tensor], Tensor]
After = Callable[[Call, Tensor, Tensor], Tensor]
"""(call, input of the layer, output so far) -> output."""


class Site:
    """The forward of one linear layer.

    Args:
        path: Its name in the network.
        layer: The layer.

    Attributes:
        path: Its name.
        before, after: What is added, in order.
        num_inputs, num_outputs: Sizes of the layer.
        is_transposed: Whether its weight is [inputs, outputs].
    """

    def __init__(self, path: str, layer: Any) -> None:
        self.path, self._layer = path, layer
        self.before: list[Before] = []
        self.after: list[After] = []
        # A Conv1D of `transformers` is a linear layer whose weight is [inputs, outputs].
        self.is_transposed = not isinstance(layer, nn.Linear)
        sizes = shape_of(layer.weight)
        self.num_inputs, self.num_outputs = sizes if self.is_transposed else sizes[::-1]
        self._weight, self._bias = f"{path}.weight", f"{path}.bias"

    def __call__(self, x: Tensor) -> Tensor:
        call, layer = current(), self._layer
        for edit in self.before:
            x = edit(call, x)
        weight = call.params.get(self._weight, layer.weight)
        bias = call.params.get(self._bias, layer.bias)
        y = frozen_linear(x, weight, bias, transposed=self.is_transposed)
        for edit_after in self.after:
            y = edit_after(call, x, y)
        return y


def make_sites(network: nn.Module, dtype: torch.dtype) -> dict[str, Site]:
    """Replace the forward of every linear layer and embedding of the network. Returns the sites by name.

    Args:
        network: The network.
        dtype: Type of what goes through it.
    """
    sites: dict[str, Site] = {}
    for path, layer in network.named_modules():
        layer.__dict__[BLOCK] = block_of(f"{path}.")
        if is_linear(layer):
            sites[path] = Site(path, layer)
            layer.__dict__["forward"] = sites[path]
        elif type(layer) is nn.Embedding:
            layer.__dict__["forward"] = _Embedding(path, layer, dtype)
    return sites


def read_from_call(network: nn.Module, tuned: Collection[str]) -> None:
    """Let modules other than linear layers and embeddings read their tuned weights from the call."""
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        names = {name: prefix + name for name in module._parameters if prefix + name in tuned}
        if names and not isinstance(module.forward, Site | _Embedding):
            is_norm = type(module) is nn.LayerNorm
            module.__dict__["forward"] = _LayerNorm(path, module) if is_norm else _Tuned(module, names)


def record_blocks(network: nn.Module) -> None:
    """Let blocks record their outputs in calls that ask for them."""
    for path, module in network.named_modules():
        if is_block(path):
            module.__dict__["forward"] = _Recorded(f"block{block_of(f'{path}.')}", module.forward)


def named_roles(sites: Mapping[str, Site]) -> dict[str, str]:
    """The roles of the layers that have one, by name."""
    return {path: role for path in sites if (role := role_of(path)) is not None}


def padding_position(network: nn.Module) -> int | None:
    """The position of padding, behind which those of texts begin (RoBERTa and its kin); None if they begin at 0."""
    tables = (getattr(module, "position_embeddings", None) for module in network.modules())
    rows = (table.padding_idx for table in tables if isinstance(table, nn.Embedding))
    return next((row for row in rows if row is not None), None)


class _Embedding:
    """The forward of a table of embeddings."""

    def __init__(self, path: str, layer: nn.Embedding, dtype: torch.dtype) -> None:
        self._name, self._layer, self._dtype = f"{path}.weight", layer, dtype

    def __call__(self, ids: Tensor) -> Tensor:
        return frozen_embedding(ids, current().params.get(self._name, self._layer.weight)).to(self._dtype)


class _LayerNorm:
    """The forward of a layer norm whose weights are tuned."""

    def __init__(self, path: str, layer: nn.LayerNorm) -> None:
        self._weight, self._bias, self._layer = f"{path}.weight", f"{path}.bias", layer

    def __call__(self, x: Tensor) -> Tensor:
        params, layer = current().params, self._layer
        return layer_norm(x, layer, params.get(self._weight, layer.weight), params.get(self._bias, layer.bias))


class _Tuned:
    """The forward of any module: that of a copy which has the call's weights."""

    def __init__(self, module: nn.Module, names: dict[str, str]) -> None:
        self._module, self._names = copy.copy(module), names
        self._module.__dict__.pop("forward", None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        params, module = current().params, copy.copy(self._module)
        own = {name: params[full] for name, full in self._names.items() if full in params}
        module.__dict__["_parameters"] = {**self._module._parameters, **own}
        return module.forward(*arguments, **options)


def divide(network: nn.Module) -> None:
    """Divide the weights of linear layers and embeddings among the ranks of this worker; other modules keep theirs."""
    if ranks.current.world == 1:
        return
    from distmeta.models.petl.partition import partition

    partition(nn.ParameterList([layer.weight for layer in with_matrices(network)]))


class _Recorded:
    """The forward of a block that records its output."""

    def __init__(self, name: str, forward: Callable[..., Any]) -> None:
        self._name, self._forward = name, forward

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        output, taps = self._forward(*arguments, **options), current().taps
        if taps is not None:  # blocks of some families return the hidden states alone, others in a tuple
            taps[self._name] = output if isinstance(output, Tensor) else output[0]
        return output
