"""The result of an analysis: tables, a JSON object, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmeta.analysis.similarity import Similarity
from distmeta.tracking import plots_of_layers

MEASURES = {"cka": "CKA", "cka_biased": "CKA, biased", "cca": "CCA", "pwcca": "PWCCA"}
"""Fields of `Similarity`, and their names for people."""


@dataclass(frozen=True)
class Freezing:
    """The headline score with some blocks of the body frozen in the inner loop.

    Attributes:
        frozen: Which.
        metric: `accuracy`, or another.
        before: Mean before the first inner step.
        after: Mean after the last.
        interval: Half-width of its 95% interval.
    """

    frozen: str
    metric: str
    before: float
    after: float
    interval: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return dataclasses.asdict(self)

    def metrics(self) -> dict[str, float]:
        """As metrics of a run, by name."""
        return {f"{self.metric}.{name}.{self.frozen}": getattr(self, name) for name in ("before", "after")}

    def row(self) -> dict[str, str]:
        """As a row of a table."""
        return {
            "frozen": self.frozen,
            f"{self.metric} before": f"{self.before:.4f}",
            "after": f"{self.after:.4f}",
            "95% interval": f"± {self.interval:.4f}",
        }


@dataclass(frozen=True)
class Pair:
    """A layer in two views.

    Attributes:
        layer: Its name.
        first, second: The views.
        samples: Number of samples.
        neurons: Number of neurons.
        similarity: How similar they are.
    """

    layer: str
    first: str
    second: str
    samples: int
    neurons: int
    similarity: Similarity

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        fields = {name: getattr(self, name) for name in ("layer", "first", "second", "samples", "neurons")}
        return {**fields, **dataclasses.asdict(self.similarity)}

    def metrics(self) -> dict[str, float]:
        """As metrics of a run, by name."""
        views = "" if (self.first, self.second) == ("before", "after") else f".{self.first} - {self.second}"
        return {f"{name}.{self.layer}{views}": getattr(self.similarity, name) for name in MEASURES}

    def row(self) -> dict[str, str]:
        """As a row of a table."""
        numbers = {label: f"{getattr(self.similarity, name):.4f}" for name, label in MEASURES.items()}
        return {"layer": self.layer, "first": self.first, "second": self.second, **numbers}


@dataclass(frozen=True)
class Part:
    """One analysis.

    Attributes:
        rows: Its results.
        left_out: Layers that are too wide.
    """

    rows: Sequence[Freezing | Pair]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnalysisResult:
    """What an analysis found.

    Attributes:
        checkpoints: Paths, as they were given.
        step: Number of outer steps of the first checkpoint.
        tasks: Number of tasks.
        parts: Analyses by name (`distmeta.training.analysis.PARTS`).
        address: URL of the tracker's run, if there is one.
    """

    checkpoints: Sequence[str]
    step: int
    tasks: int
    parts: Mapping[str, Part]
    address: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        fields = {"checkpoints": list(self.checkpoints), "step": self.step, "tasks": self.tasks}
        fields |= {"address": self.address} if self.address else {}
        left_out = {name: list(part.left_out) for name, part in self.parts.items() if part.left_out}
        found = {name: [row.to_json() for row in part.rows] for name, part in self.parts.items()}
        return {**fields, **found, **({"left_out": left_out} if left_out else {})}

    def draw(self, folder: Path) -> list[Path]:
        """Write a PNG for each part; returns their paths."""
        paths = []
        for name, part in self.parts.items():
            paths.append(folder / f"{name}.png")
            title = f"{self.checkpoints[0]}: {self.tasks} unseen tasks"
            pairs = [row for row in part.rows if isinstance(row, Pair)]
            if pairs:
                _draw_pairs(paths[-1], pairs, title)
            else:
                _draw_freezing(paths[-1], [row for row in part.rows if isinstance(row, Freezing)], title)
        return paths


def _draw_freezing(path: Path, rows: Sequence[Freezing], title: str) -> None:
    after = [row.after for row in rows], [row.interval for row in rows]
    names = [row.frozen.replace(", ", "\n") for row in rows]
    plots_of_layers.curves(path, names, {"after adaptation": after}, "frozen in the inner loop", rows[0].metric, title)


def _draw_pairs(path: Path, pairs: Sequence[Pair], title: str) -> None:
    """Curves over the layers for one pair of views, else a matrix of CKA for each layer."""
    layers, views = (
        _unique([pair.layer for pair in pairs]),
        _unique([n for pair in pairs for n in (pair.first, pair.second)]),
    )
    if len(views) == 2:
        none = [0.0] * len(layers)
        lines = {label: ([getattr(p.similarity, name) for p in pairs], none) for name, label in MEASURES.items()}
        plots_of_layers.curves(path, layers, lines, "layer", f"similarity, {views[0]} and {views[1]}", title)
        return
    matrices = {}
    for layer in layers:
        known = {(p.first, p.second): p.similarity.cka for p in pairs if p.layer == layer}
        matrices[layer] = [[1.0 if a == b else known.get((a, b), known.get((b, a), 0.0)) for b in views] for a in views]
    plots_of_layers.matrices(path, matrices, views, f"linear CKA; {title}")


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
