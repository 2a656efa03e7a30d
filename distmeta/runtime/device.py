"""Whether a process has the device that it is to compute on."""

from __future__ import annotations

import warnings

import torch

from distmeta.core.errors import UserError


def check_device(device: str, *, holder: str = "this process", instead: str = "a machine that has it") -> None:
    """Check that a device is there, before anything depends on it.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        holder: Who is to compute on it, for the message.
        instead: What would provide the device, for the message.

    Raises:
        UserError: This process does not see it.
    """
    if device == "cpu":
        return
    count = _num_gpus()
    if int(device.partition(":")[2] or 0) < count:
        return
    there = "no GPU" if not count else "1 GPU" if count == 1 else f"{count} GPUs"
    allowed = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count)), f"or {instead}"]
    raise UserError(
        f"'{device}' is not there: {holder} has {there}", where="runtime.device", allowed=", ".join(allowed)
    )


def _num_gpus() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns where the driver does not fit; the message says enough
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
