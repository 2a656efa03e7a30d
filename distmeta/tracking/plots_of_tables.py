"""Plot of a table: a bar for each score, as a PNG file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distmeta.tracking.plots import COLOURS, plain, save

Scores = Mapping[str, Mapping[str, tuple[float, float]]]
"""Row -> column -> mean and half-width of its 95% interval."""


def score_bars(path: Path, scores: Scores, *, xlabel: str, title: str) -> None:
    """Draw a group of bars for each row, with intervals.

    Args:
        path: The PNG.
        scores: What to draw; rows need not have every column.
        xlabel: Name of the metric.
        title: Title of the plot.
    """
    from matplotlib.figure import Figure

    columns = list(dict.fromkeys(column for cells in scores.values() for column in cells))
    thickness = 0.8 / len(columns)
    figure = Figure(figsize=(7.5, 1.4 + 0.22 * len(columns) * len(scores)), layout="constrained", dpi=150)
    axes = figure.subplots()
    for index, column in enumerate(columns):
        found = {place: cells[column] for place, cells in enumerate(scores.values()) if column in cells}
        heights = [place + (index + 0.5) * thickness - 0.4 for place in found]
        means, halves = zip(*found.values(), strict=True)
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(heights, means, thickness, xerr=halves, color=colour, label=column, error_kw={"linewidth": 0.8})
    axes.set_yticks(range(len(scores)), list(scores))
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.set_title(title, loc="left", fontsize=10)
    plain(axes)
    if columns != [""]:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save(figure, path)
