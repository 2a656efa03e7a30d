"""Plots of the layers of a network, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distmeta.tracking.plots import COLOURS, plain, save

MAX_LABEL = 24
"""Characters of a label; longer ones lose their beginning."""


def curves(
    path: Path,
    names: Sequence[str],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str,
) -> None:
    """Plot numbers over names in their order.

    Args:
        path: The PNG.
        names: [P] names on the x axis.
        lines: label -> (values [P], half-widths of their intervals [P]).
        xlabel: Name of the x axis.
        ylabel: Name of the y axis.
        title: Title of the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 1.1 * len(names)), 4.0), layout="constrained", dpi=150)
    axes = figure.subplots()
    for index, (label, (values, halves)) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.errorbar(range(len(names)), values, yerr=halves, color=colour, marker="o", markersize=4, label=label)
    axes.set_xticks(range(len(names)), [_short(name) for name in names], fontsize=8)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, loc="left", fontsize=10)
    plain(axes)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def matrices(path: Path, panels: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str], title: str) -> None:
    """Draw square matrices of numbers from 0 to 1, side by side.

    Args:
        path: The PNG.
        panels: title -> [V, V].
        names: [V] names of rows and columns.
        title: Title of all.
    """
    from matplotlib.figure import Figure

    side = 1.2 + 0.5 * len(names)
    figure = Figure(figsize=(1.5 + side * len(panels), 1.8 + side), layout="constrained", dpi=150)
    for index, (axes, (name, values)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        array = np.asarray(values, dtype=float)
        axes.imshow(array, vmin=0.0, vmax=1.0, cmap="viridis")
        for (row, column), value in np.ndenumerate(array):
            colour = "black" if value > 0.6 else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
        axes.set_title(name, fontsize=9)
        labels = [_short(each) for each in names]
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), labels if index == 0 else [""] * len(names), fontsize=7)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL else f"…{name[-MAX_LABEL + 1 :]}"
