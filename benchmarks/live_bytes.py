"""Peak memory of small problems, exactly: the bytes of live tensors, whatever the allocator and the process add."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live tensors that operations have returned.

    Attributes:
        peak: Maximum number of bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._current = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = {self._address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and self._address(leaf) not in arguments:
                self._add(leaf.untyped_storage())
        return result

    def _address(self, tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._live or size == 0:
            return
        self._live[address] = size
        self._current += size
        self.peak = max(self.peak, self._current)
        weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self._current -= self._live.pop(address)
