"""Graphs compiled by TorchInductor in the running process: for CUDA, by way of Triton.

torch keeps its own cache of these. On CUDA a whole graph is captured as a CUDA graph, so that a call is one launch. The
results of a captured graph are in memory that its next call overwrites, so they are copied.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.engine.graphs.cache import use_private_compiler_caches
from distmeta.engine.graphs.native import CompileError
from distmeta.engine.graphs.tracing import with_constants_as_inputs


class InductorGraph:
    """A graph compiled for the device of its inputs; has the interface of `NativeGraph`.

    Args:
        module: A graph of tensors, traced with fake tensors.

    Raises:
        CompileError: The graph does not compile.
    """

    def __init__(self, module: GraphModule) -> None:
        from torch._inductor import compile

        use_private_compiler_caches()

        module, self._constants = with_constants_as_inputs(module)
        examples = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
        self._is_captured = any(tensor.is_cuda for tensor in examples)
        options = {"triton.cudagraphs": True} if self._is_captured else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run: Any = compile(module, examples, options=options)
            except Exception as error:  # the compiler's exceptions have no common base
                text = " ".join(str(error).split())
                raise CompileError(f"torch's compiler failed: {type(error).__name__}: {text[:300]}") from error
        self._run: Callable[..., Sequence[Tensor]] = run

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = self._run(*tensors, *self._constants)
        return [tensor.clone() for tensor in outputs] if self._is_captured else list(outputs)
