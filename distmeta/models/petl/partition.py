"""Frozen weights in parts: DeepSpeed's ZeRO-3 partitioning, without its engine and its hooks.

Each rank of a worker keeps 1/world of every large frozen weight. Who uses a weight gathers it for that moment
(`distmeta.models.petl.frozen`), at every order of derivatives. Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054.

Deviations: no optimizer state and no gradients are divided, since frozen weights have none; small weights (biases,
layer norms) stay whole on every rank, because gathering them costs more than they need.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

from distmeta.core import ranks
from distmeta.core.errors import UserError
from distmeta.core.ranks import Ranks, exchange
from distmeta.models.petl.frozen import is_partitioned

MIN_ENTRIES = 1 << 14
"""Frozen weights with fewer entries stay whole."""


def partition(module: nn.Module, group: Ranks | None = None, min_entries: int = MIN_ENTRIES) -> None:
    """Divide the frozen weights of a module among the ranks; does nothing where there is only one.

    All ranks call it at the same moment, with the same module. The weights of rank 0 are taken. Call it for each layer
    as soon as its weights are loaded: until then, every rank holds them whole.

    Args:
        module: Its parameters that need no gradient become `numel() == 0` until they are gathered. Those shared by
            several layers are divided once; a second call leaves them as they are.
        group: The ranks; None takes those of this process.
        min_entries: Weights with fewer entries stay whole.

    Raises:
        UserError: DeepSpeed is not installed, or cannot keep weights in files on this machine.
        PeerError: A rank is lost.
    """
    group = ranks.current if group is None else group
    weights = [
        weight
        for weight in dict.fromkeys(module.parameters())
        if not weight.requires_grad and weight.numel() >= min_entries and not is_partitioned(weight)
    ]
    if group.world == 1 or not weights:
        return
    init = load_deepspeed("frozen weights in parts", "runtime.ranks", "1").zero.Init
    if group.offload == "nvme":
        _check_files()
    settings = _settings(group)
    with exchange("dividing frozen weights among the ranks"):
        # The list holds the module's own parameters, which are converted in place.
        init(module=nn.ParameterList(weights), config_dict_or_path=settings, mem_efficient_linear=False)
    for weight in weights:
        weight.requires_grad_(False)


def resident_bytes(module: nn.Module) -> int:
    """Bytes of the module's parameters and buffers in this process: of weights in parts, its own part.

    Parts in files count as nothing, parts in main memory as much as those on the device.
    """
    seen = dict.fromkeys(module.parameters())
    return sum(_bytes(weight) for weight in seen) + sum(buffer.nbytes for buffer in module.buffers())


def _bytes(weight: Any) -> int:
    part = getattr(weight, "ds_tensor", None)
    return int(weight.data.nbytes + (0 if part is None else part.numel() * part.element_size()))


def load_deepspeed(purpose: str, where: str, instead: str) -> Any:
    """The package `deepspeed`. It joins the process group that this process is in.

    Args:
        purpose: What needs it, for the message.
        where: Field that asks for it.
        instead: Value of the field that does not.

    Raises:
        UserError: It is not installed.
    """
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        # Its tuner would load all of MLflow, in every rank; its log goes to standard output, which is that of results.
        with _without("mlflow"), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            import deepspeed
    except ImportError as error:
        raise UserError(
            f"{purpose} need DeepSpeed ({error})",
            where=where,
            allowed=f"{instead}, or pip install 'distmeta[deepspeed]'",
        ) from error
    # A reduction through shared memory, which DeepSpeed would compile at its first use; nothing here reduces.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def _check_files() -> None:
    """Check that DeepSpeed can read and write files beside its computation.

    Raises:
        UserError: It cannot.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            "DeepSpeed cannot build its operation 'async_io' on this machine",
            where="runtime.partition.offload",
            allowed="cpu or none, or the package libaio-dev and a C++ compiler on each node",
        )


@contextlib.contextmanager
def _without(library: str) -> Iterator[None]:
    """Let a library that is not loaded look as if it were not installed."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[library]


def _settings(group: Ranks) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": 3, "memory_efficient_linear": False}  # it would replace torch's own function
    if group.offload != "none":
        zero["offload_param"] = {"device": group.offload, "pin_memory": group.device != "cpu"}
    if group.offload == "nvme":
        zero["offload_param"] |= {"nvme_path": group.nvme_path, "buffer_count": 5, "buffer_size": 1 << 28}
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
