"""The result of learning streams: a table, a JSON object, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmeta.tracking import plots

STREAM, ORACLE = "stream", "oracle"


@dataclass(frozen=True)
class Mean:
    """A mean over orders.

    Attributes:
        mean: The mean.
        interval: Half-width of its 95% interval.
    """

    mean: float
    interval: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.interval:.4f}"


@dataclass(frozen=True)
class End:
    """Accuracies at the end of streams of one length.

    Attributes:
        features: Whose features.
        order: `stream`, or `oracle`: random order, several passes.
        classes: Number of classes.
        rate: Learning rate that was chosen.
        train, test: Accuracy on training and test examples of all classes.
    """

    features: str
    order: str
    classes: int
    rate: float
    train: Mean
    test: Mean


@dataclass(frozen=True)
class Along:
    """Accuracies along the longest stream.

    Attributes:
        classes: Number of classes seen.
        train, test: Accuracy on training and test examples of these.
    """

    classes: int
    train: Mean
    test: Mean


@dataclass(frozen=True)
class StreamResult:
    """What was learned from streams.

    Attributes:
        checkpoints: Paths, as they were given.
        optimizer: Name of the optimizer.
        orders: Number of streams of each length.
        ends: Accuracies at the ends.
        along: Accuracies along the longest stream, by features.
    """

    checkpoints: Sequence[str]
    optimizer: str
    orders: int
    ends: Sequence[End]
    along: Mapping[str, Sequence[Along]]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "checkpoints": list(self.checkpoints),
            "optimizer": self.optimizer,
            "orders": self.orders,
            "ends": [dataclasses.asdict(end) for end in self.ends],
            "along": {name: [dataclasses.asdict(each) for each in points] for name, points in self.along.items()},
        }

    def rows(self) -> list[dict[str, str]]:
        """A table: one row for each length, order and kind of features."""
        return [
            {
                "classes": str(end.classes),
                "features": end.features,
                "order": end.order,
                "rate": f"{end.rate:g}",
                "train": str(end.train),
                "test": str(end.test),
            }
            for end in sorted(self.ends, key=lambda end: end.classes)
        ]

    def draw(self, folder: Path) -> list[Path]:
        """Write a PNG of the ends, and one of the way along the longest stream; returns their paths."""
        ends, along = folder / "classes.png", folder / "along.png"
        lines = {}
        for name in self.along:
            for order in (STREAM, ORACLE):
                chosen = [end for end in self.ends if (end.features, end.order) == (name, order)]
                lines[f"{name}, {order}"] = _line(chosen)
        title = f"one example at a time, {self.orders} orders, 95% intervals"
        plots.adaptation_curve(ends, lines, "test accuracy", title, xlabel="classes to learn")
        seen = {f"{name}, {part}": _line(points, part) for name, points in self.along.items() for part in PARTS}
        plots.adaptation_curve(along, seen, "accuracy on classes seen", title, xlabel="classes seen")
        return [ends, along]


PARTS = ("train", "test")


def _line(
    points: Sequence[End | Along], part: str = "test"
) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    """x, y and half-widths of a curve."""
    values = [getattr(point, part) for point in points]
    return [p.classes for p in points], [value.mean for value in values], [value.interval for value in values]
