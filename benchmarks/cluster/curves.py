"""Pictures of steps against the number of workers, as PNG files, in the manner of a run's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distmeta.tracking.plots import COLOURS, FAINT, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[Sequence[int], Sequence[float]]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def overhead_curves(
    path: Path, curves: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]], goal: float, title: str
) -> None:
    """Draw two panels against the number of workers: a step's overhead, and its ratio to copying the updates once.

    Args:
        path: The PNG.
        curves: Payload -> workers, seconds, ratios.
        goal: The ratio that is allowed.
        title: The picture's title: the machine.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained", dpi=150)
    panels = figure.subplots(1, 2)
    for index, (name, (workers, seconds, ratios)) in enumerate(curves.items()):
        style = {"color": COLOURS[index % len(COLOURS)], "marker": _MARKERS[index % len(_MARKERS)], "markersize": 4}
        panels[0].plot(workers, seconds, label=name, **style)
        panels[1].plot(workers, ratios, **style)
    panels[1].axhline(goal, color=FAINT, linestyle="--", linewidth=1)
    for axes, label in zip(panels, ("overhead of a step, s", "overhead / copying its updates once"), strict=True):
        _by_workers(axes, label)
        _logarithmic(axes)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    save(figure, path)


def scaling_curves(
    path: Path, efficiency: Mapping[str, Curve], checked: Mapping[str, tuple[Curve, Curve]], title: str
) -> None:
    """Draw two panels against the number of workers: predicted efficiency, and predicted beside measured step times.

    Args:
        path: The PNG.
        efficiency: Label -> workers, share of the time that workers compute.
        checked: Payload -> workers and seconds as predicted, and as measured.
        title: The picture's title: the machine.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    for index, (name, (workers, shares)) in enumerate(efficiency.items()):
        left.plot(workers, [100 * share for share in shares], color=COLOURS[index % len(COLOURS)], label=name)
    for index, (name, (predicted, measured)) in enumerate(checked.items()):
        colour = COLOURS[index % len(COLOURS)]
        right.plot(*predicted, color=colour, label=f"{name}, predicted")
        right.plot(*measured, color=colour, linestyle="none", marker=_MARKERS[index % len(_MARKERS)], markersize=5)
    _by_workers(left, "efficiency, % (predicted)")
    left.set_ylim(0, 105)
    _by_workers(right, "seconds a step (lines predicted, marks measured)")
    _logarithmic(right)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    save(figure, path)


def _by_workers(axes: Axes, label: str) -> None:
    axes.set(xlabel="workers", ylabel=label)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", color=FAINT, alpha=0.4, linewidth=0.6)
    plain(axes)


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, also between the powers of ten where there are few of these."""
    from matplotlib.ticker import LogFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2.0, 0.5)))
