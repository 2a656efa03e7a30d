"""Pictures of the benchmarks, as PNG files, in the manner of a run's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engine.contenders import display
from distmeta.tracking.plots import COLOURS, FAINT, plain, save

if TYPE_CHECKING:
    pass

Curves = Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def ratio_bars(path: Path, rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Draw a group of bars for each row: speed as a multiple of the plain loop's, on a logarithmic axis.

    Args:
        path: The PNG.
        rows: Row -> contender -> ratio.
        title: The picture's title: the machine.
    """
    from matplotlib.figure import Figure

    contenders = list(dict.fromkeys(name for ratios in rows.values() for name in ratios))
    thickness = 0.8 / max(1, len(contenders))
    height = 1.2 + 0.2 * len(contenders) * max(1, len(rows))
    figure = Figure(figsize=(7.5, height), layout="constrained", dpi=150)
    axes = figure.subplots()
    for index, name in enumerate(contenders):
        places = [place for place, ratios in enumerate(rows.values()) if name in ratios]
        values = [ratios[name] for ratios in rows.values() if name in ratios]
        heights = [place + (index + 0.5) * thickness - 0.4 for place in places]
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(heights, [value - 1.0 for value in values], thickness, left=1.0, color=colour, label=display(name))
        for y, value in zip(heights, values, strict=True):
            axes.text(value, y, f" {value:.3g} ", va="center", fontsize=6, ha="left" if value >= 1 else "right")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("speed, as a multiple of the plain loop's")
    axes.set_title(title, loc="left", fontsize=8)
    plain(axes)
    if contenders:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def memory_curves(path: Path, curves: Curves, title: str) -> None:
    """Draw two panels against the number of inner steps: peak memory, and seconds a task.

    Args:
        path: The PNG.
        curves: Contender -> steps, MiB, seconds.
        title: The picture's title: the machine.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 3.8), layout="constrained", dpi=150)
    panels = figure.subplots(1, 2)
    for index, (name, (steps, peaks, seconds)) in enumerate(curves.items()):
        style = {"color": COLOURS[index % len(COLOURS)], "marker": _MARKERS[index % len(_MARKERS)], "markersize": 4}
        panels[0].plot(steps, peaks, label=display(name), **style)
        panels[1].plot(steps, seconds, **style)
    for axes, label in zip(panels, ("peak memory above the start, MiB", "seconds a task"), strict=True):
        axes.set(xlabel="inner steps", ylabel=label, ylim=(0, None), xlim=(0, None))
        axes.grid(axis="y", color=FAINT, alpha=0.4, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain(axes)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    if curves:
        figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    save(figure, path)
