"""Backbone networks. To add one, write a `Backbone` class and add it to `BACKBONES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from distmeta.config.models import ModelConfig
from distmeta.models.base import Backbone
from distmeta.models.conv4 import Conv4
from distmeta.models.mlp import Mlp

BACKBONES: dict[str, Callable[[Any, tuple[int, ...], Mapping[str, int], torch.dtype], Backbone]] = {
    "mlp": Mlp,
    "conv4": Conv4,
}


def build_backbone(
    config: ModelConfig, input_shape: tuple[int, ...], heads: Mapping[str, int], dtype: torch.dtype = torch.float32
) -> Backbone:
    """Build a network; `heads` are the numbers of outputs by name of the head."""
    return BACKBONES[config.kind](config, input_shape, heads, dtype)
