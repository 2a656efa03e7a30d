"""Graphs compiled by TorchInductor in the running process: for CUDA, by way of Triton, and captured whole.

torch keeps its own cache of these. A captured graph reads and writes fixed memory, so inputs are copied to its own
tensors, and results from them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.engine.graphs.cache import use_private_compiler_caches
from distmeta.engine.graphs.cuda_graph import captured
from distmeta.engine.graphs.native import CompileError
from distmeta.engine.graphs.tracing import with_constants_as_inputs


class InductorGraph:
    """A graph compiled for the device of its inputs; has the interface of `NativeGraph`.

    Safe to call from several threads, which wait for each other.

    Args:
        module: A graph of tensors, traced with fake tensors.

    Raises:
        CompileError: The graph does not compile.
    """

    def __init__(self, module: GraphModule) -> None:
        module, constants = with_constants_as_inputs(module)
        examples = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
        num_inputs = len(examples) - len(constants)
        examples[:num_inputs] = [_writable(example) for example in examples[:num_inputs]]
        self._inputs = [_zeros(example) for example in examples[:num_inputs]]
        run = partial(_compile(module, examples), *self._inputs, *constants)
        on_cuda = all(tensor.is_cuda for tensor in (*self._inputs, *constants))
        self._run = captured(run, self._inputs[0].device) if on_cuda else run
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run the graph.

        Raises:
            ValueError: The number, a shape or a type of the tensors differs from the traced ones.
        """
        for tensor, traced in zip(tensors, self._inputs, strict=True):
            if tensor.shape != traced.shape or tensor.dtype != traced.dtype:
                expected, actual = (f"{one.dtype} {list(one.shape)}" for one in (traced, tensor))
                raise ValueError(f"the graph was compiled for {expected}, got {actual}")
        with self._lock:
            _copy(self._inputs, tensors)
            outputs = self._run()
            results = [torch.empty_like(output) for output in outputs]
            _copy(results, outputs)
        return results


def _writable(example: Tensor) -> Tensor:
    """The example, or a contiguous one where its elements share memory or leave gaps."""
    if torch.empty_like(example).stride() == example.stride():
        return example
    return torch.empty_like(example, memory_format=torch.contiguous_format)


def _zeros(example: Tensor) -> Tensor:
    return torch.empty_strided(example.shape, example.stride(), dtype=example.dtype, device=example.device).zero_()


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors of the same shapes: one launch for all of a type."""
    for dtype in {target.dtype for target in targets}:
        pairs = [(target, source) for target, source in zip(targets, sources, strict=True) if target.dtype == dtype]
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])


def _compile(module: GraphModule, examples: list[Any]) -> Callable[..., Sequence[Tensor]]:
    from torch._inductor import compile

    use_private_compiler_caches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run: Any = compile(module, examples, options={"triton.cudagraphs": False})
        except Exception as error:  # the compiler's exceptions have no common base
            text = " ".join(str(error).split())
            raise CompileError(f"torch's compiler failed: {type(error).__name__}: {text[:300]}") from error
    return run  # type: ignore[no-any-return]
