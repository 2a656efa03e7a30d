"""Corruptions of images."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from distmeta.config.shifts import CorruptionName
from distmeta.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from distmeta.data.corruptions.geometry import motion, plasma, zoom

Images = npt.NDArray[np.uint8]
NOT_MONOTONE = {"elastic_transform"}
"""Its parameters trade large smooth moves for small sharp ones."""


def photos(count: int = 24, channels: int = 3, side: int = 32) -> Images:
    """Smooth images with edges: a sum of waves, and a bright square."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 3, side)
    phase, tilt = rng.uniform(0, 6, (count, channels, 1, 1)), rng.uniform(0.5, 2, (count, 1, 1, 1))
    values = 0.5 + 0.3 * np.sin(tilt * grid[:, None] + grid[None] * (3 - tilt) + phase)
    values[:, :, side // 4 : side // 2, side // 3 : side // 2] += 0.2
    return (values * 255).astype(np.uint8)


def seeds(count: int) -> npt.NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64) + 7


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_by_its_own_seed_alone(name: str) -> None:
    images = photos(5)
    together = corrupt(images, name, 5, seeds(5))
    assert (together.dtype, together.shape) == (np.uint8, images.shape)
    assert np.array_equal(together, corrupt(images, name, 5, seeds(5)))
    alone = corrupt(images[3:4], name, 5, seeds(5)[3:4])
    assert np.abs(alone[0].astype(int) - together[3]).max() <= 1  # a matrix product may round a whole number down
    assert np.array_equal(images, photos(5))


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in ("contrast", "brightness")])
def test_random_corruptions_differ_between_seeds_and_fixed_ones_do_not(name: str) -> None:
    images = photos(4)
    differ = not np.array_equal(corrupt(images, name, 5, seeds(4)), corrupt(images, name, 5, seeds(4) + np.uint64(50)))
    assert differ == (name not in ("defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"))


def mean_change(clean: Images, damaged: Images) -> float:
    return float(np.abs(damaged.astype(float) - clean).mean())


def lost_structure(clean: Images, damaged: Images) -> float:
    """What is left of the correlation of an image with itself: more ice also means less of the image's own light."""
    pairs = zip(clean.reshape(len(clean), -1), damaged.reshape(len(clean), -1), strict=True)
    return 100 * (1 - float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_with_severity(name: str) -> None:
    images = photos()
    measure = lost_structure if name == "frost" else mean_change
    damage = [measure(images, corrupt(images, name, each, seeds(24))) for each in SEVERITIES]
    assert damage[0] > 0
    if name not in NOT_MONOTONE:
        # The second blur of glass takes some of the differences away that its shuffling makes.
        assert all(later > 0.98 * earlier for earlier, later in pairwise(damage)), damage
        assert damage[-1] > 1.3 * damage[0], damage
    assert damage[-1] < 128


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (1, 32), (3, 16)])
def test_other_sizes_and_grey_images(channels: int, side: int) -> None:
    images = photos(3, channels, side)
    for name in CORRUPTIONS:
        assert corrupt(images, name, 3, seeds(3)).shape == images.shape, name


def test_the_names_of_the_configuration_are_those_of_the_table() -> None:
    assert get_args(CorruptionName) == tuple(CORRUPTIONS)


def test_noise_has_the_published_strength() -> None:
    grey = np.full((40, 3, 32, 32), 128, dtype=np.uint8)
    gaussian = corrupt(grey, "gaussian_noise", 5, seeds(40)) / 255
    assert gaussian.std() == pytest.approx(0.10, rel=0.02)
    photons = corrupt(grey, "shot_noise", 5, seeds(40)) / 255
    assert photons.mean() == pytest.approx(128 / 255 - 0.5 / 255, abs=0.002)  # cut to whole numbers
    assert photons.std() == pytest.approx((128 / 255 / 50) ** 0.5, rel=0.02)
    impulses = corrupt(grey, "impulse_noise", 5, seeds(40))
    assert [(impulses == value).mean() for value in (0, 255)] == pytest.approx([0.035, 0.035], abs=0.002)
    black = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    assert not corrupt(black, "shot_noise", 1, seeds(1)).any()


def test_contrast_and_brightness_are_their_definitions() -> None:
    images = photos(3)
    values = images / 255
    means = values.mean((2, 3), keepdims=True)
    expected = np.floor(np.clip((values - means) * 0.15 + means, 0, 1) * 255 + 1e-6)
    assert np.array_equal(corrupt(images, "contrast", 5, seeds(3)), expected)
    brighter = corrupt(images, "brightness", 5, seeds(3)) / 255
    assert np.abs(brighter.max(1) - np.minimum(values.max(1) + 0.3, 1)).max() < 1.01 / 255
    ratio = values.min(1) / values.max(1)  # HSV's saturation is 1 minus this
    assert np.abs(brighter.min(1) / brighter.max(1) - ratio).max() < 0.02


def test_motion_goes_along_its_angle() -> None:
    dot = np.zeros((3, 1, 15, 15))
    dot[:, 0, 7, 7] = 1.0
    right, down, still = motion(dot, 3, 2.0, np.array([0.0, 90.0, 0.0]))
    assert right[0, 7].sum() == pytest.approx(1.0)
    assert down[0, :, 7].sum() == pytest.approx(1.0)
    assert np.array_equal(right, still)
    assert np.count_nonzero(right) == 7


def test_enlarging_by_one_changes_nothing_and_by_two_shows_the_middle() -> None:
    images = photos(2) / 255
    assert np.abs(zoom(images, 1.0) - images).max() < 1e-12
    ramp = np.broadcast_to(np.arange(32.0), (1, 1, 32, 32))
    row = zoom(ramp, 2.0)[0, 0, 0]
    assert (row[0], row[-1]) == pytest.approx((8.0, 23.0))
    assert np.diff(row) == pytest.approx(np.full(31, 15 / 31))


def test_height_maps_go_from_zero_to_one() -> None:
    heights = plasma(seeds(5), 20, 2.0, "test")
    assert heights.shape == (5, 20, 20)
    assert (heights.min() >= 0, heights.max() <= 1) == (True, True)
    rough, smooth = (np.abs(np.diff(plasma(seeds(9), 32, decay, "test"))).mean() for decay in (1.2, 3.0))
    assert rough > 2 * smooth
