"""Compiled strategies without a compiler: a `NativeGraph` that runs its graph eagerly, operation by operation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.engine.graphs.native import _layout, _with_layout


class InterpretedGraph:
    """Replaces `NativeGraph`: takes tensors of the traced shapes and types, in the traced memory layout.

    Attributes:
        made: All graphs made since the list was emptied.
        thread: The thread that made it.
    """

    made: list[InterpretedGraph] = []  # noqa: RUF012

    def __init__(self, module: GraphModule, lanes: int, **options: Any) -> None:
        self.module, self.thread = module, threading.get_ident()
        self._layouts = [_layout(node.meta["val"]) for node in module.graph.find_nodes(op="placeholder")]
        self.made.append(self)

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        inputs = [_with_layout(tensor, layout) for tensor, layout in zip(tensors, self._layouts, strict=True)]
        with torch.no_grad():
            return list(self.module(*inputs))
