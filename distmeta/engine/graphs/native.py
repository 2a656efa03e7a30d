"""Graphs as native code for the CPU: compiled once for a machine, kept on disk, called without the GIL.

AOTInductor compiles a graph ahead of time into a shared library with a C interface. Calling that interface through
`ctypes`, rather than through torch's Python wrapper, lets several lanes run it at once. The name of the file is a hash
of the graph and of everything else that its code depends on, so a stale library is never used.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.core.errors import DistmetaError, UserError
from distmeta.core.logs import quiet
from distmeta.engine.graphs.cache import cache_folder, environment, use_private_compiler_caches
from distmeta.engine.graphs.tracing import with_constants_as_inputs

_AOTI = torch._C._aoti
_OPTIONS: dict[str, Any] = {
    # The code around the kernels runs once a call: compile it quickly, and optimize the kernels only.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    # Precompiling headers takes as long as a graph: it pays only where one process compiles many.
    "aot_inductor.precompile_headers": False,
    # Trust the processor's flags about its vector units, instead of compiling a test program for each.
    "cpp.vec_isa_ok": True,
    # Lanes are the parallelism: one thread for each.
    "cpp.threads": 1,
}


_LOCK_TIMEOUT_S, _LOCK_POLL_S = 600.0, 0.05


class CompileError(DistmetaError):
    """A graph cannot be compiled on this machine."""


class NativeGraph:
    """A compiled graph: called with the tensors of its placeholders, it returns the tensors of its output.

    Safe to call from several threads; calls beyond the number of lanes wait.

    Args:
        module: A graph of tensors on the CPU, traced with fake tensors.
        lanes: Maximum number of concurrent calls.

    Raises:
        CompileError: The graph does not compile, or its library does not load.
    """

    def __init__(self, module: GraphModule, lanes: int) -> None:
        module, self._constants = with_constants_as_inputs(module)
        placeholders = module.graph.find_nodes(op="placeholder")
        self._layouts = [_layout(node.meta["val"]) for node in placeholders]
        self._num_outputs = len(next(iter(reversed(module.graph.nodes))).args[0])
        library = _build_library(module, [node.meta["val"] for node in placeholders])
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise CompileError(f"the compiled graph does not load: {error}") from error
        self._container = ctypes.c_void_p()
        status = self._library.AOTInductorModelContainerCreateWithDevice(
            ctypes.byref(self._container), ctypes.c_size_t(lanes), b"cpu", None
        )
        if status:
            raise CompileError(f"the compiled graph {library} does not load")

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run the graph. Tensors whose memory layout differs from the traced one are copied.

        Raises:
            ValueError: The number, a shape or a type of the tensors differs from the traced ones.
        """
        inputs = (*tensors, *self._constants)
        tensors = [_with_layout(tensor, layout) for tensor, layout in zip(inputs, self._layouts, strict=True)]
        count, outputs = len(tensors), (ctypes.c_void_p * self._num_outputs)()
        # The library takes ownership of these handles.
        handles = [_capsule_pointer(capsule, None) for capsule in _AOTI.unsafe_alloc_void_ptrs_from_tensors(tensors)]
        status = self._library.AOTInductorModelContainerRun(
            self._container,
            (ctypes.c_void_p * count)(*handles),
            ctypes.c_size_t(count),
            outputs,
            ctypes.c_size_t(self._num_outputs),
            None,
            None,
        )
        if status:
            raise CompileError("a compiled graph failed; its message is on stderr")
        capsules = [_new_capsule(pointer, None, None) for pointer in outputs]
        return list(_AOTI.alloc_tensors_by_stealing_from_void_ptrs(capsules))


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides, type."""


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def _with_layout(tensor: Tensor, layout: Layout) -> Tensor:
    """The tensor with these strides. Native code checks no shapes: with another one it reads out of bounds."""
    shape, strides, dtype = layout
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"the graph was compiled for {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
    if tensor.stride() == strides:
        return tensor
    return torch.empty_strided(shape, strides, dtype=dtype).copy_(tensor)


def _build_library(module: GraphModule, examples: list[Tensor]) -> Path:
    """Path of a graph's library, compiled if it is not cached. Of several processes, one compiles; the others wait."""
    identity = "\n".join(
        (module.code, *(str(_layout(example)) for example in examples), *environment(), str(sorted(_OPTIONS.items())))
    )
    folder = cache_folder()
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.so"
    with _file_lock(path.with_suffix(".lock")):
        if not _is_intact(path):
            _compile(module, examples, path)
    return path


def _is_intact(path: Path) -> bool:
    """Whether the library exists with the bytes that were written."""
    try:
        return path.with_suffix(".sha256").read_text(encoding="ascii") == _sha256(path)
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(module: GraphModule, examples: list[Tensor], path: Path) -> None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"there is no C++ compiler '{compiler}'",
            where="engine.strategy",
            allowed="loop or vmap; or install g++, or set CXX",
        )
    use_private_compiler_caches()
    from torch._inductor import aot_compile
    from torch._inductor import config as inductor

    supported = inductor.get_config_copy()  # torch versions differ in their options
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Path(scratch) / "graph.so"
        try:
            with quiet("torch._inductor"):
                options = {name: value for name, value in _OPTIONS.items() if name in supported}
                library = aot_compile(
                    module, tuple(examples), options={**options, "aot_inductor.output_path": str(target)}
                )
        except Exception as error:  # the compiler's exceptions have no common base
            text = " ".join(str(error).split())
            raise CompileError(f"torch's compiler failed: {type(error).__name__}: {text[:300]}") from error
        path.with_suffix(".sha256").write_text(_sha256(Path(str(library))), encoding="ascii")
        os.replace(str(library), path)


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Hold a lock that its owner's end releases; the wait ends, and can be interrupted.

    Raises:
        CompileError: Another process has held it for `_LOCK_TIMEOUT_S`.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CompileError(
                        f"another process has been compiling for {_LOCK_TIMEOUT_S:g} s: {path}"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
