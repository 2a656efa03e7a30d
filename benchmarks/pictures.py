"""Pictures of the benchmarks, as PNG files, in the style of a run's pictures. The title of each is the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmeta.tracking.plots import COLOURS, FAINT, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, ...]
Curves = Mapping[str, Sequence[Point]]
"""Label -> points of (x, y, ...)."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def grouped(points: Iterable[tuple[str, Point]]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for label, point in points:
        curves.setdefault(label, []).append(point)
    return curves


def ratio_bars(path: Path, rows: Mapping[str, Mapping[str, float]], title: str, base: str = "the plain loop") -> None:
    """Draw a group of bars for each row: row -> contender -> speed as a multiple of that of a base."""
    from matplotlib.figure import Figure

    contenders = list(dict.fromkeys(name for ratios in rows.values() for name in ratios))
    thickness = 0.8 / max(1, len(contenders))
    height = 1.2 + 0.2 * len(contenders) * max(1, len(rows))
    figure = Figure(figsize=(7.5, height), layout="constrained", dpi=150)
    axes = figure.subplots()
    for index, name in enumerate(contenders):
        values = {place: ratios[name] for place, ratios in enumerate(rows.values()) if name in ratios}
        heights = [place + (index + 0.5) * thickness - 0.4 for place in values]
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(heights, [ratio - 1.0 for ratio in values.values()], thickness, left=1.0, color=colour, label=name)
        for y, ratio in zip(heights, values.values(), strict=True):
            axes.text(ratio, y, f" {ratio:.3g} ", va="center", fontsize=6, ha="left" if ratio >= 1 else "right")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"speed, as a multiple of that of {base}")
    axes.set_title(title, loc="left", fontsize=8)
    plain(axes)
    _legend(figure, contenders)
    save(figure, path)


def memory_curves(path: Path, curves: Curves, title: str) -> None:
    """Draw points of (inner steps, peak MiB, seconds per task), by contender."""
    from matplotlib.ticker import MaxNLocator

    figure, left, right = _two_panels(title, curves)
    for axes, label in ((left, "peak memory above the base level, MiB"), (right, "seconds per task")):
        _finish(axes, "inner steps", label)
        axes.set(ylim=(0, None), xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path)


def tradeoff_curves(path: Path, curves: Curves, title: str) -> None:
    """Draw points of (inner steps, error of the meta-gradient, seconds, peak MiB), by contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.0), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    labels = ("error of the meta-gradient, relative", "seconds", "peak memory, MiB")
    for panel, (axes, label) in enumerate(zip(figure.subplots(1, 3), labels, strict=True), 1):
        for index, (name, points) in enumerate(curves.items()):
            x, y = [point[0] for point in points], [point[panel] for point in points]
            axes.plot(x, y, label=name if panel == 1 else None, **_style(index))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        _finish(axes, "inner steps", label)
    _legend(figure, curves)
    save(figure, path)


def loss_curves(path: Path, settings: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Draw losses after 0, 1, ... steps: a panel for each setting, a curve for each optimizer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(settings), 4.0), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    panels = figure.subplots(1, len(settings), squeeze=False)[0]
    for axes, (setting, curves) in zip(panels, settings.items(), strict=True):
        for index, (name, losses) in enumerate(curves.items()):
            axes.plot(losses, color=COLOURS[index % len(COLOURS)], label=name, linewidth=1.2)
        axes.set_title(setting, fontsize=9)
        axes.set_yscale("log")
        _finish(axes, "steps", "loss of the queries")
        axes.legend(frameon=False, fontsize=7)
    save(figure, path)


def overhead_curves(path: Path, curves: Curves, goal: float, title: str) -> None:
    """Draw points of (workers, seconds of overhead, its ratio to copying), by payload; `goal` bounds the ratio."""
    figure, left, right = _two_panels(title, curves)
    right.axhline(goal, color=FAINT, linestyle="--", linewidth=1)
    for axes, label in ((left, "overhead of a step, s"), (right, "overhead / copying its updates once")):
        _by_workers(axes, label, log=True)
    save(figure, path)


def scaling_curves(path: Path, efficiency: Curves, checks: Curves, title: str) -> None:
    """Draw points of (workers, efficiency in percent) and of (workers, predicted and measured seconds), by payload."""
    figure, left, right = _two_panels(title, {})
    for index, (label, points) in enumerate(efficiency.items()):
        left.plot(*zip(*points, strict=True), color=COLOURS[index % len(COLOURS)], label=label)
    for index, (label, points) in enumerate(checks.items()):
        workers, predicted, measured = zip(*points, strict=True)
        right.plot(workers, predicted, color=COLOURS[index % len(COLOURS)], label=f"{label}, predicted")
        right.plot(workers, measured, linestyle="none", **_style(index))
    _by_workers(left, "efficiency, % (predicted)")
    left.set_ylim(0, 105)
    _by_workers(right, "seconds per step (lines predicted, marks measured)", log=True)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=7)
    save(figure, path)


def shares(path: Path, results: Mapping[str, Any], title: str) -> None:
    """Draw accuracy in percent against the share of tuned parameters, a panel for each task.

    Args:
        path: PNG file.
        results: kind -> {share, scores: {"start, task": (mean, half-width)}}.
        title: The machine.
    """
    from matplotlib.figure import Figure

    pairs = [name.rsplit(", ", 1) for name in next(iter(results.values()))["scores"]]
    starts, tasks = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    figure = Figure(figsize=(9.0, 4.0), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for index, start in enumerate(starts):
            # Beside each other: intervals over the same tasks would hide each other.
            x = [100 * result["share"] * (1.0 + 0.06 * index) for result in results.values()]
            means, halves = zip(*(result["scores"][f"{start}, {task}"] for result in results.values()), strict=True)
            label = start if task == tasks[0] else None
            axes.errorbar(x, means, halves, linestyle="none", capsize=2, label=label, **_style(index))
        for name, result in results.items():
            top = max(result["scores"][f"{start}, {task}"][0] for start in starts)
            axes.annotate(
                name, (100 * result["share"], top), (0, 5), textcoords="offset points", fontsize=6, ha="center"
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}%")
        _finish(axes, "share of tuned parameters", f"accuracy, {task} (%)")
    _legend(figure, starts)
    save(figure, path)


def _two_panels(title: str, curves: Curves) -> tuple[Figure, Axes, Axes]:
    """Two panels, with curves of (x, left y, right y)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    left, right = figure.subplots(1, 2)
    for index, (label, points) in enumerate(curves.items()):
        x, *values = zip(*points, strict=True)
        left.plot(x, values[0], label=label, **_style(index))
        right.plot(x, values[1], **_style(index))
    _legend(figure, curves)
    return figure, left, right


def _legend(figure: Figure, labels: Iterable[str]) -> None:
    if list(labels):
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _style(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": _MARKERS[index % len(_MARKERS)], "markersize": 4}


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y", color=FAINT, alpha=0.4, linewidth=0.6)
    plain(axes)


def _by_workers(axes: Axes, label: str, *, log: bool = False) -> None:
    """Finish a panel over the number of workers; a logarithmic y axis has plain numbers."""
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2.0, 0.5)))
    _finish(axes, "workers", label)
