"""Backbone networks. To add one, write a `Backbone` class and add it to `BACKBONES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from distmeta.config.models import ModelConfig
from distmeta.config.python import PythonModel
from distmeta.core.code import instance_of, load_target
from distmeta.models.base import Backbone
from distmeta.models.conv4 import Conv4
from distmeta.models.convnet import convnet
from distmeta.models.mixed import Mixed
from distmeta.models.mlp import Mlp
from distmeta.models.module import ModuleBackbone
from distmeta.models.policy import Policy
from distmeta.models.resnet12 import resnet12

_limits: dict[Any, Mapping[str, str]] = {}
"""What cannot be done with users' networks: trying takes seconds, and a process builds each network several times."""


def _python(
    config: PythonModel, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype
) -> Backbone:
    make = load_target(config.target, config.sha256, "model.target")
    if isinstance(make, type) and issubclass(make, Backbone):
        made: Backbone = instance_of(Backbone, config, "model", input_shape, heads, dtype)
        return made
    module = partial(instance_of, nn.Module, config, "model")
    key = (config.model_dump_json(), input_shape, tuple(heads.items()), dtype)
    backbone = ModuleBackbone(module, input_shape, heads, dtype, head=config.head, limits=_limits.get(key))
    _limits[key] = backbone.limits
    return backbone


def _transformer(config: Any, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype) -> Backbone:
    from distmeta.models.petl.transformer import Transformer

    return Transformer(config, input_shape, heads, dtype)


BACKBONES: dict[str, Callable[[Any, tuple[int, ...], Mapping[str, int], torch.dtype], Backbone]] = {
    "mlp": Mlp,
    "policy": Policy,
    "conv4": Conv4,
    "resnet12": resnet12,
    "mixed": Mixed,
    "convnet": convnet,
    "transformer": _transformer,
    "python": _python,
}


def build_backbone(
    config: ModelConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype = torch.float32
) -> Backbone:
    """Build a network; `heads` are the numbers of outputs by name of the head."""
    return BACKBONES[config.kind](config, input_shape, heads, dtype)
