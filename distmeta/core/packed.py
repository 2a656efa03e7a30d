"""Flat parameters in a few blocks of memory, which can be added block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a tensor is: in a block, the piece of this number."""

    name: str
    shape: tuple[int, ...]
    block: int
    piece: int


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tensors are where. Two layouts are the same only if they are one object.

    Attributes:
        places: The tensors in their order.
        sizes: Number of entries of each piece of each block: tensors, and zeros between them.
        keys: A name for each block, the same for all blocks of its number, size and type.
    """

    places: tuple[Place, ...]
    sizes: tuple[tuple[int, ...], ...]
    keys: tuple[str, ...]

    def views(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors in these blocks."""
        pieces = [block.split_with_sizes(sizes) for block, sizes in zip(blocks, self.sizes, strict=True)]
        return {place.name: pieces[place.block][place.piece].view(place.shape) for place in self.places}


class Packed(dict[str, Tensor]):
    """Parameters by name, as views of blocks. Like all parameters it is not changed once it is made.

    Args:
        layout: Which tensors are where.
        blocks: One-dimensional; they hold these tensors and, between them, zeros.
    """

    def __init__(self, layout: Layout, blocks: Sequence[Tensor]) -> None:
        super().__init__(layout.views(blocks))
        self.layout, self.blocks = layout, tuple(blocks)
