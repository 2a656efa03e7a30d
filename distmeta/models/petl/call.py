"""What a forward pass of a large network reads besides its inputs. It belongs to the thread: lanes share a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

Params = Mapping[str, Tensor]


@dataclass
class Prefix:
    """Further keys and values of one block. Shapes: V positions, H heads of keys, D numbers a head.

    Attributes:
        keys, values: [V, H, D].
        gate: [heads of queries] weights of the attention to the prefix; None where it shares the softmax of the text.
    """

    keys: Tensor
    values: Tensor
    gate: Tensor | None


@dataclass
class Call:
    """A forward pass.

    Attributes:
        params: Tunable parameters by name.
        mask: What is added to attention logits (`distmeta.models.petl.texts`); None where everything is seen.
        prefixes: Prefixes by block.
        scratch: Inputs of parts that end with a parallel adapter, by part.
        taps: Hidden states [.., L, D] after each block, by `block<number>`; None if nobody asks for them.
    """

    params: Params
    mask: Tensor | None = None
    prefixes: dict[int, Prefix] = field(default_factory=dict)
    scratch: dict[object, Tensor] = field(default_factory=dict)
    taps: dict[str, Tensor] | None = None


class _Current(threading.local):
    call: Call | None = None


_current = _Current()


@contextmanager
def running(call: Call) -> Iterator[None]:
    """Make a call that of the forward pass in the block."""
    before, _current.call = _current.call, call
    try:
        yield
    finally:
        _current.call = before


def current() -> Call:
    """The call of the forward pass that runs in this thread."""
    assert _current.call is not None, "a layer is called outside of its network"
    return _current.call
