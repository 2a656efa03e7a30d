"""Plots of a run, as PNG files. matplotlib is imported lazily and needs no display.

Shapes: N support examples, Q queries, S tasks, P points of a curve, H x W pixels, C channels.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

# Okabe and Ito (2008): distinguishable with any kind of colour vision, and in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CORRECT, WRONG, FAINT = "#009E73", "#D55E00", "#999999"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def adaptation_curve(
    path: Path,
    curves: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]],
    ylabel: str,
    title: str,
    xlabel: str = "inner steps",
) -> None:
    """Plot a metric over inner steps, or over another count.

    Args:
        path: The PNG.
        curves: label -> (numbers of inner steps [P], mean [P], half-width of its 95% interval [P]).
        ylabel: Name of the metric.
        title: Title of the plot.
        xlabel: What is counted.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(6.0, 4.0)
    for index, (label, (steps, mean, half)) in enumerate(curves.items()):
        centre, width = np.asarray(mean, dtype=float), np.asarray(half, dtype=float)
        colour = COLOURS[index % len(COLOURS)]
        axes.fill_between(steps, centre - width, centre + width, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, centre, color=colour, marker=_MARKERS[index % len(_MARKERS)], markersize=4, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes, path, xlabel=xlabel, ylabel=ylabel, title=title)


def training_curves(
    path: Path,
    series: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    xlabel: str,
    ylabel: str,
    reference: tuple[str, npt.ArrayLike, npt.ArrayLike] | None = None,
    title: str = "",
) -> None:
    """Plot metrics over steps or seconds.

    Args:
        path: The PNG.
        series: label -> (x [P], y [P]).
        xlabel: Name of the x axis, with its unit.
        ylabel: Name of the y axis, with its unit.
        reference: Label, x and y of published or separately measured points to compare with.
        title: Title of the plot.
    """
    figure, axes = _figure(6.5, 4.0)
    for index, (label, (x, y)) in enumerate(series.items()):
        marker = _MARKERS[index % len(_MARKERS)] if np.size(x) <= 30 else None
        axes.plot(x, y, color=COLOURS[index % len(COLOURS)], marker=marker, markersize=4, label=label)
    if reference is not None:
        label, x, y = reference
        axes.plot(x, y, color="black", linestyle="--", linewidth=1, marker="x", markersize=7, label=label)
    _finish(figure, axes, path, xlabel=xlabel, ylabel=ylabel, title=title)


def sample_tasks(
    path: Path,
    support_images: Array,
    support_labels: Array,
    query_images: Array,
    query_labels: Array,
    predictions: Array | None = None,
    max_queries: int = 10,
    max_support: int = 25,
) -> None:
    """Draw few-shot image tasks in rows: the support set on the left, queries on the right.

    Correct predictions have a green frame, wrong ones an orange frame, a cross and the true label.

    Args:
        path: The PNG.
        support_images: [S, N, H, W] or [S, N, C, H, W], in [0, 1]; N is 0 where the learner reads none.
        support_labels: [S, N].
        query_images: [S, Q, H, W] or [S, Q, C, H, W].
        query_labels: [S, Q].
        predictions: [S, Q] predicted labels.
        max_queries: Maximum number of queries shown of each task.
        max_support: Maximum number of support examples shown of each task.
    """
    num_support, num_query = min(max_support, support_images.shape[1]), min(max_queries, query_images.shape[1])
    figure, grid = _grid(len(support_images), [1.0] * num_support + [0.4] + [1.0] * num_query)
    for s, row in enumerate(grid):
        for axes, n in zip(row, _sample_of_classes(support_labels[s], num_support), strict=False):
            _show_image(axes, support_images[s, n], str(support_labels[s, n]), FAINT)
        for axes, q in zip(row[num_support + 1 :], _sample_of_classes(query_labels[s], num_query), strict=True):
            truth = query_labels[s, q]
            predicted = truth if predictions is None else predictions[s, q]
            if predicted == truth:
                _show_image(axes, query_images[s, q], str(truth), FAINT if predictions is None else CORRECT)
            else:
                _show_image(axes, query_images[s, q], f"✗ {predicted} (is {truth})", WRONG)
    if num_support:
        _set_header(grid[0][0], "support: label")
    _set_header(grid[0][num_support + 1], "queries: label" if predictions is None else "queries: predicted label")
    save(figure, path)


@dataclass(frozen=True)
class Fit:
    """A scalar regression task to plot.

    Attributes:
        support: x and y [N] of the support points.
        truth: x and y [P] of the true function.
        grid: [P] x of the predictions.
        predictions: Number of inner steps -> [P] predictions after them.
    """

    support: tuple[Array, Array]
    truth: tuple[Array, Array]
    grid: Array
    predictions: Mapping[int, Array]


def regression_fits(path: Path, fits: Sequence[Fit], title: str = "") -> None:
    """Plot true functions, support points, and predictions before and after some inner steps.

    Args:
        path: The PNG.
        fits: [S] tasks, side by side.
        title: Title of the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(fits), 3.4), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(fits), sharey=True, squeeze=False)[0]
    for axes, fit in zip(panels, fits, strict=True):
        axes.plot(*fit.truth, color="black", linewidth=1.5, label="true function")
        for index, (steps, values) in enumerate(sorted(fit.predictions.items())):
            colour, style = (FAINT, ":") if steps == 0 else (COLOURS[index % len(COLOURS)], "--")
            axes.plot(fit.grid, values, color=colour, linestyle=style, label=steps_label(steps))
        axes.plot(*fit.support, "^", color=COLOURS[3], markersize=6, label="support points")
        axes.set_xlabel("x")
        plain(axes)
    panels[0].set_ylabel("y")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 if len(fits) < 3 else len(labels), frameon=False)
    if title:
        figure.suptitle(title)
    save(figure, path)


@dataclass(frozen=True)
class Walks:
    """A task of navigation to plot.

    Attributes:
        goal: x and y of the goal [2].
        paths: Label -> positions [N, P, 2] along N trajectories, NaN behind their ends; the first ones are faint.
    """

    goal: Array
    paths: Mapping[str, Array]


def walks(path: Path, tasks: Sequence[Walks]) -> None:
    """Plot trajectories in the plane: before and after some inner steps, or in the episodes of a trial.

    Args:
        path: The PNG.
        tasks: [S] tasks, side by side.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(tasks), 3.7), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for index, (label, paths) in enumerate(task.paths.items()):
            colour = FAINT if index == 0 else COLOURS[index % len(COLOURS)]
            for number, positions in enumerate(paths):
                axes.plot(*positions.T, color=colour, linewidth=0.8, alpha=0.7, label=None if number else label)
        axes.plot(*task.goal, "*", color="black", markersize=10, label="goal")
        axes.set_aspect("equal", adjustable="datalim")
        plain(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    save(figure, path)


def steps_label(steps: int) -> str:
    """What is said of so many inner steps."""
    return "before" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}"


def _sample_of_classes(labels: Array, count: int) -> Array:
    """Indices of `count` examples, taken from the classes in turn and sorted by class."""
    ranks = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        ranks[labels == label] = np.arange((labels == label).sum())
    chosen = np.lexsort((labels, ranks))[:count]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    return figure, figure.subplots()


def _grid(rows: int, widths: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.85 * sum(widths), 1.04 * rows + 0.3), layout="constrained", dpi=150)
    grid = figure.subplots(rows, len(widths), squeeze=False, width_ratios=list(widths))
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, [list(row) for row in grid]


def _show_image(axes: Axes, image: Array, text: str, colour: str) -> None:
    pixels = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    axes.set_axis_on()
    axes.imshow(np.clip(pixels, 0.0, 1.0), cmap="gray", vmin=0.0, vmax=1.0)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, fontsize=7, color="black" if colour == FAINT else colour, labelpad=2)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=0.8 if colour == FAINT else 2.0)


def _set_header(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=8, loc="left")


def _finish(figure: Figure, axes: Axes, path: Path, *, xlabel: str, ylabel: str, title: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    plain(axes)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def load_ahead() -> threading.Thread:
    """Import the libraries of plots on another thread: for a time in which this one only waits."""

    def load() -> None:
        with contextlib.suppress(ImportError):  # the first plot raises it again
            for name in ("matplotlib.figure", "matplotlib.ticker", "matplotlib.backends.backend_agg"):
                importlib.import_module(name)

    thread = threading.Thread(target=load, name="distmeta-loading-plots")
    thread.start()
    return thread


def plain(axes: Axes) -> None:
    """Hide the top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; create its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
