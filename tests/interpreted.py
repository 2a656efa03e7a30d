"""Compiled strategies without a compiler: graphs are run operation by operation, in every other respect alike."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.engine.graphs.native import _laid_out, _layout


class InterpretedGraph:
    """Stands for `NativeGraph`: takes tensors of the traced shapes and types, in the traced memory layout.

    Attributes:
        made: All that were made since the list was emptied.
        thread: The thread that it was made in.
    """

    made: list[InterpretedGraph] = []  # noqa: RUF012

    def __init__(self, module: GraphModule, lanes: int, **options: Any) -> None:
        self.module, self.thread = module, threading.get_ident()
        self._layouts = [_layout(node.meta["val"]) for node in module.graph.find_nodes(op="placeholder")]
        self.made.append(self)

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        laid_out = [_laid_out(tensor, layout) for tensor, layout in zip(tensors, self._layouts, strict=True)]
        with torch.no_grad():
            return list(self.module(*laid_out))
