"""Images in several orientations, labelled by their quarter turns: a task that needs no labels (Gidaris et al. 2018,
arXiv 1803.07728; TTT, Sun et al. 2020, arXiv 1909.13231).

Shapes: N images of H x H pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distmeta.core import seeding
from distmeta.core.seeding import Uint64
from distmeta.core.types import ROTATION, Batch

TURNS = 4


def turned(images: Tensor) -> Batch:
    """All four orientations of images [..., N, C, H, H]: inputs [..., 4 N, C, H, H], those of one image together."""
    every = torch.stack([torch.rot90(images, turns, (-2, -1)) for turns in range(TURNS)], dim=-4)
    turns = torch.arange(TURNS, device=images.device).expand(every.shape[:-3])
    return Batch(every.flatten(-5, -4), turns.flatten(-2).clone())


def turned_by(images: Tensor, turns: Tensor) -> Batch:
    """Images [..., N, C, H, H], each turned by its own number of quarter turns, int64 [..., N]."""
    every = turned(images).inputs.reshape(*images.shape[:-3], TURNS, *images.shape[-3:])
    index = turns[..., None, None, None, None].expand(*turns.shape, 1, *images.shape[-3:])
    return Batch(every.gather(-4, index).squeeze(-4), turns)


def rotation_of(images: Tensor, seeds: Uint64, *, is_training: bool) -> Batch:
    """Role `rotation` of images [T, N, C, H, H]: each one turned at random in training, else all four orientations."""
    if not is_training:
        return turned(images)
    drawn = seeding.uniform(seeds, ROTATION, images.shape[1]) * TURNS
    return turned_by(images, torch.from_numpy(drawn.astype(np.int64)))


def domains_of(labelled: Tensor, unlabelled: Tensor) -> Batch:
    """Role `domains`: examples [T, N, ...] of target 0 and [T, M, ...] of target 1."""
    counts = torch.tensor([labelled.shape[1], unlabelled.shape[1]])
    targets = torch.arange(2).repeat_interleave(counts).expand(len(labelled), -1)
    return Batch(torch.cat((labelled, unlabelled), 1), targets.clone())
