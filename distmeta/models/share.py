"""Copies of a tree of modules that have the same tensors."""

from __future__ import annotations

import copy
import threading

from torch import nn


def share(module: nn.Module, copies: dict[int, nn.Module] | None = None) -> nn.Module:
    """A copy of a module and of those within it; parameters and buffers are the same tensors."""
    copies = {} if copies is None else copies
    if id(module) not in copies:
        copied = copies[id(module)] = copy.copy(module)
        copied.__dict__["_parameters"] = dict(module._parameters)
        copied.__dict__["_buffers"] = dict(module._buffers)
        for name, value in module.__dict__.items():
            if type(value) is list:  # recurrent layers keep their weights in one as well
                copied.__dict__[name] = list(value)
        children = module._modules.items()
        copied.__dict__["_modules"] = {name: child and share(child, copies) for name, child in children}
    return copies[id(module)]


class PerThread(threading.local):
    """A module for each thread: `torch.func.functional_call` puts its weights into the module while it runs.

    Args:
        module: The module whose copies threads get.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = share(module)
