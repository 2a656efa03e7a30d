"""Any `torch.nn.Module` as a backbone: a function of its parameters, running statistics and seeds.

The module is taken apart when it is made:

- Its last linear layer is the head; what comes before are the features. A module without such a layer is all body.
- Parameters that require no gradient are frozen: they stay in the module, are never sent and never get a gradient.
- Batch norm and dropout are replaced by layers of ours (`distmeta.models.layers`), which keep their state outside, and
  layer and instance norm by such that have the right second derivative.
- A module that mixes the examples of a batch in another way is taken as transductive.
- What else draws random numbers, keeps state or follows the head is refused, with what to change.

Attention is computed by its definition in a process that has such a network: torch's fused kernels have no second
derivative. Other operations without one, or that `vmap` does not know, are found by trying (`limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from distmeta.core.errors import UserError
from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.models.base import HEAD, INDUCTIVE, TRANSDUCTIVE, Backbone, Frame
from distmeta.models.heads import init_heads, with_heads
from distmeta.models.layers import (
    ExactInstanceNorm,
    ExactLayerNorm,
    RunningNorm,
    SeededDropout,
    current_frame,
    frame_of_call,
)
from distmeta.models.probe import find_limits, is_row_wise, require_pure
from distmeta.models.share import PerThread

Make = Callable[[tuple[int, ...], int], nn.Module]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUTS: dict[type[nn.Module], int] = {nn.Dropout: 0, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_AFFINE = (RunningNorm, nn.GroupNorm, nn.LayerNorm, ExactInstanceNorm, *_INSTANCE_NORMS)


@dataclass(frozen=True)
class _Parts:
    """A module that has been taken apart.

    Attributes:
        body: The module with its head replaced by the identity.
        head: The last linear layer; None if there is none.
        head_name: Its name.
        params: Parameters that are trained, by name, the head's included.
        frozen: Parameters that are not.
        buffers: Running statistics.
    """

    body: nn.Module
    head: nn.Linear | None
    head_name: str
    params: Params
    frozen: Params
    buffers: Params


class ModuleBackbone(Backbone):
    """A network made by a function.

    Args:
        make: (input_shape, num_outputs) -> module.
        input_shape: Shape of one example.
        heads: Number of outputs by name of the head.
        dtype: Type of the parameters.
        head: Name of the last linear layer in the module; None finds it.
        limits: What cannot be done with it (see `Backbone`); None tries.
        protocol: The protocol to prefer where batch norm keeps running statistics.
        where: Field of the configuration, for messages.

    Raises:
        UserError: The module cannot be used as a function.
    """

    def __init__(
        self,
        make: Make,
        input_shape: tuple[int, ...],
        heads: Mapping[str, int],
        dtype: torch.dtype,
        *,
        head: str | None = None,
        protocol: str = INDUCTIVE,
        limits: Mapping[str, str] | None = None,
        where: str = "model",
    ) -> None:
        self._make, self._shape, self._dtype = make, input_shape, dtype
        self._head_option, self._where = head, where
        torch.backends.cuda.enable_flash_sdp(False)  # these concern the CPU's kernels as well
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        self.heads = dict(heads)
        parts = self._parts = self._take_apart(seed=0)
        self._body = PerThread(parts.body)
        norms = [module for module in parts.body.modules() if isinstance(module, RunningNorm)]
        dropouts = [module for module in parts.body.modules() if isinstance(module, SeededDropout) and module.p]
        self.is_random = bool(dropouts)
        if any(not norm.tracks for norm in norms):
            self.protocols = (TRANSDUCTIVE,)
        elif norms:
            self.protocols = (INDUCTIVE, TRANSDUCTIVE)
        self.protocol = protocol if protocol in self.protocols else self.protocols[0]
        self.is_row_wise = not norms
        example = torch.zeros(2, *input_shape, dtype=dtype)
        self.num_features = self.features(parts.params, example, self._probe_frame()).shape[-1]
        if parts.head is not None and parts.head.in_features != self.num_features:
            raise UserError(
                f"what follows '{parts.head_name}', the last linear layer, changes its output",
                where=where,
                allowed="a module that ends with its last linear layer, or its name in `head`",
            )
        self.has_head = parts.head is not None
        if not norms and not is_row_wise(self, parts.params, input_shape, dtype):
            self.is_row_wise, self.protocols, self.protocol = False, (TRANSDUCTIVE,), TRANSDUCTIVE
        require_pure(self, parts.params, input_shape, dtype, where)
        self.limits = find_limits(self, parts.params, input_shape, dtype) if limits is None else limits

    @override
    def init(self, seed: int) -> Params:
        """As the module's own layers initialise themselves, from torch's generator with this seed."""
        params = self._take_apart(seed).params
        others = {name: outputs for name, outputs in self.heads.items() if name != HEAD}
        if others:
            params |= init_heads(self, seed, torch.Generator(), self._dtype, names=others)
        return params

    @override
    def buffers(self) -> Params:
        return {name: tensor.clone() for name, tensor in self._parts.buffers.items()}

    @override
    def under(self, protocol: str) -> Backbone:
        """Transductive: batch norm by the batch; inductive: by running statistics."""
        if protocol == self.protocol:
            return self
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, "protocol": protocol}
        return other

    @override
    def features(self, params: Mapping[str, Tensor], inputs: Tensor, frame: Frame) -> Tensor:
        values = {name: params[name] for name in self._parts.params if not self._is_of_head(name)} | self._parts.frozen
        with frame_of_call(frame, by_batch=self.protocol == TRANSDUCTIVE):
            features: Tensor = functional_call(self._body.module, values, (inputs,))
        return features

    @override
    def head(self, params: Mapping[str, Tensor], features: Tensor, head: str = HEAD) -> Tensor:
        if head == HEAD and self._parts.head is None:
            if features.shape[-1] != self.heads[HEAD]:
                what = f"the network has {features.shape[-1]} outputs, but the tasks need {self.heads[HEAD]}"
                raise UserError(what, where=self._where, allowed="a module with `num_outputs` outputs")
            return features
        weight, *bias = (params[name] for name in self.head_names(head))
        outputs = features @ weight.T
        return outputs + bias[0] if bias else outputs

    @override
    def head_names(self, head: str) -> tuple[str, ...]:
        if head != HEAD:
            return super().head_names(head)
        names = tuple(f"{self._parts.head_name}.{part}" for part in ("weight", "bias"))
        return tuple(name for name in names if name in self._parts.params)

    @override
    def groups(self) -> dict[str, tuple[str, ...]]:
        """`all`, `body`, every head, `norm`, and the module's children by name."""
        blocks = self._blocks()
        names = [name for block in blocks.values() for name in block]
        affine = {
            f"{path}.{name}"
            for path, module in self._parts.body.named_modules()
            if isinstance(module, _AFFINE)
            for name, _ in module.named_parameters(recurse=False)
        }
        return with_heads(self, blocks, norm=tuple(name for name in names if name in affine))

    @override
    def blocks(self) -> tuple[str, ...]:
        return tuple(self._blocks())

    def _blocks(self) -> dict[str, tuple[str, ...]]:
        """Names of parameters by the module's child."""
        blocks: dict[str, tuple[str, ...]] = {}
        for name in self._parts.params:
            if not self._is_of_head(name):
                child = name.partition(".")[0]
                blocks[child] = (*blocks.get(child, ()), name)
        return blocks

    def _is_of_head(self, name: str) -> bool:
        return self._parts.head is not None and name.rpartition(".")[0] == self._parts.head_name

    def _probe_frame(self) -> Frame:
        return Frame(training=True, buffers=self.buffers(), seed=torch.zeros((), dtype=torch.int64))

    def _take_apart(self, seed: int) -> _Parts:
        # Layers draw their initial values from torch's generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, "module"))
            module = self._make(self._shape, self.heads.get(HEAD, 1))
        module = module.to(self._dtype)
        frozen = {name: tensor.detach() for name, tensor in module.named_parameters() if not tensor.requires_grad}
        params = {name: tensor.detach() for name, tensor in module.named_parameters() if tensor.requires_grad}
        name, head = self._find_head(module)
        if head is not None and HEAD not in self.heads:  # heads of other names take the place of the module's own
            params = {each: tensor for each, tensor in params.items() if each.rpartition(".")[0] != name}
        buffers = _replace_layers(module, self._dtype, self._where)
        if head is not None:
            module = _without(module, name)
        for child, layer in module.named_children():
            if child != name:
                layer.register_forward_hook(partial(_tap, child))
        return _Parts(module.train().requires_grad_(False), head, name, params, frozen, buffers)

    def _find_head(self, module: nn.Module) -> tuple[str, nn.Linear | None]:
        linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        if self._head_option is not None:
            if self._head_option not in linear:
                what = f"the module has no linear layer '{self._head_option}'"
                raise UserError(what, where=f"{self._where}.head", allowed=", ".join(linear) or "null")
            return self._head_option, linear[self._head_option]
        fitting = [name for name, layer in linear.items() if layer.out_features == self.heads.get(HEAD, 1)]
        last = next(reversed(linear), "")
        return (last, linear[last]) if last and last in fitting[-1:] else (HEAD, None)


def _tap(name: str, layer: nn.Module, inputs: object, output: object) -> None:
    """Record the output of a layer, if it is one tensor."""
    if isinstance(output, Tensor):
        current_frame().tap(name, output)


def _without(module: nn.Module, name: str) -> nn.Module:
    """The module with a layer replaced by the identity."""
    if not name:
        return nn.Identity()
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
    return module


def _replace_layers(module: nn.Module, dtype: torch.dtype, where: str) -> Params:
    """Replace norms and dropout within a module; refuse what cannot be. Returns the running statistics."""
    buffers: Params = {}
    for path, layer in list(module.named_modules()):
        replacement: nn.Module | None = None
        if isinstance(layer, _NORMS):
            if layer.track_running_stats and layer.momentum is None:
                what = f"'{path}' averages its statistics over all batches (momentum None)"
                raise UserError(what, where=where, allowed="a momentum, such as 0.1")
            replacement = RunningNorm(layer, path)
            buffers |= replacement.initial(layer.num_features, dtype)
        elif type(layer) is nn.LayerNorm:
            replacement = ExactLayerNorm(layer)
        elif type(layer) in _INSTANCE_NORMS and not layer.track_running_stats:
            replacement = ExactInstanceNorm(layer)
        elif type(layer) in _DROPOUTS:
            replacement = SeededDropout(layer.p, _DROPOUTS[type(layer)])
        elif isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0.0:
            what = f"'{path}' ({type(layer).__name__}) has dropout of its own, which draws from torch's generator"
            raise UserError(what, where=where, allowed="its dropout 0, and torch.nn.Dropout layers")
        if replacement is not None:
            parent, _, child = path.rpartition(".")
            setattr(module.get_submodule(parent), child, replacement)
    return buffers
