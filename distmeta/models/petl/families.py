"""What the linear layers of transformers do, by their names in the families of `transformers`.

A layer's role is that of the longest ending of its name that is listed here. The block that it belongs to is the first
number in its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from distmeta.core.errors import UserError, nearest

ROLES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "SelfAttention.q"),
    "key": ("key", "k_proj", "k_lin", "SelfAttention.k"),
    "value": ("value", "v_proj", "v_lin", "SelfAttention.v"),
    "fused": ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv"),
    "output": (
        "attention.output.dense",
        "attention.dense",
        "attn.c_proj",
        "attn.Wo",
        "self_attn.dense",
        "o_proj",
        "out_proj",
        "out_lin",
        "SelfAttention.o",
    ),
    "ffn_in": (
        "intermediate.dense",
        "mlp.c_fc",
        "dense_h_to_4h",
        "mlp.Wi",
        "fc1",
        "lin1",
        "gate_proj",
        "up_proj",
        "gate_up_proj",
    ),
    "ffn_out": ("output.dense", "mlp.c_proj", "dense_4h_to_h", "mlp.Wo", "fc2", "lin2", "down_proj"),
}
"""Endings of names by role. `fused` layers make queries, keys and values together."""
_LAST_NUMBER = re.compile(r"(?:^|\.)(\d+)$")
_BLOCK = re.compile(r"(?:^|\.)(\d+)\.")


def role_of(path: str) -> str | None:
    """The role of a layer; None if its name says none."""
    fitting = [(len(end), role) for role, ends in ROLES.items() for end in ends if _ends_with(path, end)]
    return max(fitting)[1] if fitting and block_of(path) is not None else None


def block_of(path: str) -> int | None:
    """The block that a layer belongs to; None if to none (embeddings, last norm)."""
    match = _BLOCK.search(path)
    return int(match[1]) if match else None


def is_block(path: str) -> bool:
    """Whether a module is a block itself."""
    match = _LAST_NUMBER.search(path)
    return match is not None and block_of(f"{path}.") == int(match[1])


def num_blocks(paths: Sequence[str]) -> int:
    """Number of blocks of a network with these layers."""
    return max((block for path in paths if (block := block_of(path)) is not None), default=-1) + 1


def check_blocks(blocks: Sequence[int] | None, count: int, where: str) -> None:
    """Check that a network of `count` blocks has these.

    Raises:
        UserError: It does not.
    """
    for block in blocks or ():
        if block >= count:
            raise UserError(f"there is no block {block}", where=where, allowed=f"0 to {count - 1}")


def find_layers(paths: Sequence[str], targets: Sequence[str], blocks: Sequence[int] | None, where: str) -> list[str]:
    """The layers that targets name, in the order of the network.

    Args:
        paths: Names of the network's linear layers.
        targets: Roles, or endings of names.
        blocks: Numbers of blocks; None for all.
        where: Field of the configuration, for messages.

    Raises:
        UserError: A target or a block names no layer.
    """
    for position, target in enumerate(targets):
        if not any(_is_named(path, target) for path in paths):
            what = f"the network has no linear layer '{target}'"
            raise UserError(what, where=f"{where}.{position}", allowed=nearest(target, names_of(paths)))
    check_blocks(blocks, num_blocks(paths), f"{where.rpartition('.')[0]}.layers")
    return [
        path
        for path in paths
        if any(_is_named(path, target) for target in targets) and (blocks is None or block_of(path) in blocks)
    ]


def names_of(paths: Sequence[str]) -> list[str]:
    """The targets that a network with these layers has: roles, and endings of names below the block."""
    roles = {role for path in paths if (role := role_of(path)) is not None}
    below = {_BLOCK.split(path, maxsplit=1)[-1] for path in paths if block_of(path) is not None}
    return sorted(roles | below)


def _is_named(path: str, target: str) -> bool:
    return role_of(path) == target if target in ROLES else _ends_with(path, target)


def _ends_with(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")
