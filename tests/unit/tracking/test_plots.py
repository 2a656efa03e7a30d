"""Plots: each kind is written as a PNG."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distmeta.tracking import plots

STEPS = np.arange(4)
IMAGES = np.linspace(0.0, 1.0, 2 * 6 * 28 * 28).reshape(2, 6, 28, 28)
COLOUR_IMAGES = np.repeat(IMAGES[:, :, None], 3, axis=2)
LABELS = np.array([[0, 1, 2, 0, 1, 2]] * 2)
WRONG = np.array([[0, 1, 2, 2, 1, 0], [0, 1, 2, 0, 1, 2]])
X = np.linspace(-5.0, 5.0, 20)
FIT = plots.Fit((X[:5], np.sin(X[:5])), (X, np.sin(X)), X, {0: 0 * X, 1: 0.5 * np.sin(X), 10: np.sin(X)})
PATHS = np.stack([X[:8], np.where(np.arange(8) < 5, np.sin(X[:8]), np.nan)], -1)[None].repeat(3, 0)

PLOTS: dict[str, Callable[[Path], None]] = {
    "curve": lambda path: plots.adaptation_curve(path, {"a": (STEPS, STEPS / 4, 0.1 + 0 * STEPS)}, "accuracy", "a"),
    "training": lambda path: plots.training_curves(
        path, {"a": ([1, 2], [0.5, 0.6])}, "s", "accuracy", ("published", [1, 2], [0.4, 0.5])
    ),
    "tasks": lambda path: plots.sample_tasks(path, IMAGES, LABELS, IMAGES, LABELS, WRONG),
    "unpredicted": lambda path: plots.sample_tasks(path, COLOUR_IMAGES, LABELS, COLOUR_IMAGES, LABELS),
    "walks": lambda path: plots.walks(
        path,
        [plots.Walks(np.array([0.1, 0.2]), {"before": PATHS, "after 1 step": PATHS / 2, "after 3 steps": PATHS / 3})],
    ),
    "fits": lambda path: plots.regression_fits(path, [FIT, FIT], "sinusoid"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_each_plot_is_a_png_that_is_not_empty(tmp_path: Path, name: str) -> None:
    path = tmp_path / "made" / f"{name}.png"
    PLOTS[name](path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 200
    assert pixels.min() < 50 and pixels.max() == 255


def test_samples_cover_all_classes() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert plots._sample_of_classes(labels, 4).tolist() == [0, 1, 3, 6]


def test_libraries_are_loaded_ahead_on_another_thread(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom distmeta.tracking import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.load_ahead().join()\n"
        "before = set(sys.modules)\n"
        "import pathlib\n"
        "plots.adaptation_curve(pathlib.Path(sys.argv[1]), {'x': ((0, 1), (1, 0), (0, 0))}, 'y', 'title')\n"
        "print([name for name in set(sys.modules) - before if name.startswith('matplotlib')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]", "nothing is left to load when the first plot is drawn"
