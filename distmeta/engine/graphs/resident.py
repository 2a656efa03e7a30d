"""Graphs compiled in the process that runs them: for devices with compilers of their own (CUDA, by way of Triton).

torch keeps its own cache of these. On CUDA a graph is captured whole, so that a step is one launch and nothing waits
for the host; a captured graph's results lie in memory that its next run overwrites, so they are copied out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.engine.graphs.native import CompileError
from distmeta.engine.graphs.tracing import with_constants_as_inputs


class ResidentGraph:
    """A graph compiled for the device of its inputs; see `NativeGraph`, which it can stand for.

    Args:
        module: A graph of tensors, traced with fake tensors.

    Raises:
        CompileError: It does not compile; says why.
    """

    def __init__(self, module: GraphModule) -> None:
        from torch._inductor import compile

        module, self._constants = with_constants_as_inputs(module)
        examples = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
        self._captured = any(tensor.is_cuda for tensor in examples)
        options = {"triton.cudagraphs": True} if self._captured else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run: Any = compile(module, examples, options=options)
            except Exception as error:  # the compiler has no common base for what it raises
                text = " ".join(str(error).split())
                raise CompileError(f"torch's compiler failed: {type(error).__name__}: {text[:300]}") from error
        self._run: Callable[..., Sequence[Tensor]] = run

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run it."""
        with torch.no_grad():
            found = self._run(*tensors, *self._constants)
        return [tensor.clone() for tensor in found] if self._captured else list(found)
