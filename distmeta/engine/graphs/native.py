"""Graphs as native code: built once for a machine, kept on disk, called without the interpreter's lock.

A graph is compiled ahead of time (torch's AOTInductor) into a shared library with a C interface. Calling that interface
directly, rather than through torch's Python wrapper, lets several lanes run it at once. The file's name is a hash of
the graph and of all that decides about its code, so a stale one is never taken; the folder belongs to the user alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.core.errors import DistmetaError
from distmeta.core.logs import quiet
from distmeta.engine.graphs.cache import cache_folder, environment
from distmeta.engine.graphs.tracing import with_constants_as_inputs

_AOTI = torch._C._aoti
_OPTIONS: dict[str, Any] = {
    # The code around the kernels runs once a call: compile it fast, the kernels well.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    # Precompiled headers pay where many graphs are compiled in one go, and cost as much as a graph.
    "aot_inductor.precompile_headers": False,
    # Believe what the processor says of its vector units, instead of compiling a test for each.
    "cpp.vec_isa_ok": True,
    # Lanes run tasks side by side, each on one thread.
    "cpp.threads": 1,
}


class CompileError(DistmetaError):
    """A graph cannot be compiled on this machine."""


class NativeGraph:
    """A graph in native code: called with the tensors of its placeholders, it returns those of its output.

    Calls may overlap in as many threads as there are lanes; more wait for their turn.

    Args:
        module: A graph of tensors on the CPU, traced with fake tensors.
        lanes: Calls at a time.

    Raises:
        CompileError: It does not compile; says why.
    """

    def __init__(self, module: GraphModule, lanes: int) -> None:
        module, self._constants = with_constants_as_inputs(module)
        placeholders = module.graph.find_nodes(op="placeholder")
        self._layouts = [_layout(node.meta["val"]) for node in placeholders]
        self._num_outputs = len(next(iter(reversed(module.graph.nodes))).args[0])
        library = _built(module, [node.meta["val"] for node in placeholders])
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
        """Run it. Tensors whose memory layout differs from the graph's are copied."""
        given = (*tensors, *self._constants)
        tensors = [_laid_out(tensor, layout) for tensor, layout in zip(given, self._layouts, strict=True)]
        count, outputs = len(tensors), (ctypes.c_void_p * self._num_outputs)()
        # The library takes these handles over and drops them.
        handles = [_address(capsule, None) for capsule in _AOTI.unsafe_alloc_void_ptrs_from_tensors(tensors)]
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
        capsules = [_capsule(pointer, None, None) for pointer in outputs]
        return list(_AOTI.alloc_tensors_by_stealing_from_void_ptrs(capsules))


_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def _laid_out(tensor: Tensor, layout: Layout) -> Tensor:
    """The tensor with the strides that the code was made for; the code reads beyond the end of any other shape."""
    shape, strides, dtype = layout
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"the graph was compiled for {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
    if tensor.stride() == strides:
        return tensor
    return torch.empty_strided(shape, strides, dtype=dtype).copy_(tensor)


def _built(module: GraphModule, examples: list[Tensor]) -> Path:
    """The library of a graph, from the cache or new. Processes that want the same one wait for the first."""
    identity = "\n".join(
        (module.code, *(str(_layout(example)) for example in examples), *environment(), str(sorted(_OPTIONS.items())))
    )
    folder = cache_folder()
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.so"
    with _locked(path.with_suffix(".lock")):
        if not _is_whole(path):
            _compile(module, examples, path)
    return path


def _is_whole(path: Path) -> bool:
    """False for a library that is missing, or whose bytes are not those that were written."""
    try:
        return path.with_suffix(".sha256").read_text(encoding="ascii") == _sha256(path)
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(module: GraphModule, examples: list[Tensor], path: Path) -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise CompileError("compiled strategies need a C++ compiler; install g++ or set CXX")
    from torch._inductor import aot_compile
    from torch._inductor import config as inductor

    known = inductor.get_config_copy()
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Path(scratch) / "graph.so"
        try:
            with quiet("torch._inductor"):
                options = {name: value for name, value in _OPTIONS.items() if name in known}
                built = aot_compile(
                    module, tuple(examples), options={**options, "aot_inductor.output_path": str(target)}
                )
        except Exception as error:  # the compiler has no common base for what it raises
            text = " ".join(str(error).split())
            raise CompileError(f"torch's compiler failed: {type(error).__name__}: {text[:300]}") from error
        path.with_suffix(".sha256").write_text(_sha256(Path(str(built))), encoding="ascii")
        os.replace(str(built), path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
