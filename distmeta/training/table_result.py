"""The result of a table: means and intervals over seeds, as Markdown, JSON and a picture.

Percent for accuracies; of one seed, the interval is that over its tasks, of several that over seeds (Student's t).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distmeta.config.table import Table
from distmeta.core.files import write_file
from distmeta.core.json_values import finite
from distmeta.tracking.environment import hardware_line
from distmeta.tracking.plots import adaptation_curve
from distmeta.tracking.plots_of_tables import score_bars
from distmeta.training.seeds import student_t

_NONE = "-"


@dataclass(frozen=True)
class Found:
    """What is known of a cell.

    Attributes:
        row: Title of its row.
        seed: Its seed.
        scores: Label of a column -> protocol, metric, tasks, mean (`after`) and `interval`.
        result: The run's result, as `TrainResult.to_json` gives it; None if it has none.
        error: Why it failed.
        machine: Where it ran (`distmeta.tracking.environment.hardware`).
    """

    row: str
    seed: int
    scores: Mapping[str, Mapping[str, Any]]
    result: Mapping[str, Any] | None
    error: str | None
    machine: Mapping[str, str | int] | None = None


@dataclass(frozen=True)
class Mean:
    """A score over seeds.

    Attributes:
        metric: `accuracy`, `loss`.
        mean: The mean over seeds.
        interval: Half-width of its 95% interval.
        seeds: Number of seeds.
    """

    metric: str
    mean: float
    interval: float
    seeds: int

    @property
    def text(self) -> str:
        """`98.7 ± 0.4` of an accuracy, in percent, or of a return; three decimals of other metrics.

        A value that has no interval, that of a single task, stands alone.
        """
        scale = 100.0 if "accuracy" in self.metric else 1.0
        digits = 1 if "accuracy" in self.metric or "return" in self.metric else 3
        half = f" ± {scale * self.interval:.{digits}f}" if self.interval else ""
        return f"{scale * self.mean:.{digits}f}{half}"


def mean_of(scores: Sequence[Mapping[str, Any]]) -> Mean:
    """The mean of one score of each seed."""
    values = [math.nan if score["after"] is None else float(score["after"]) for score in scores]
    mean = math.fsum(values) / len(values)
    half = float(scores[0]["interval"] or 0.0)
    if len(values) > 1:
        spread = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        half = student_t(len(values) - 1) * spread / math.sqrt(len(values))
    return Mean(scores[0]["metric"], mean, half, len(values))


def _by_seed(scores: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """For each seed, the mean over columns; its interval is that of a sum of independent ones."""
    means: list[Mapping[str, Any]] = []
    for seed in dict.fromkeys(seed for _, seed in scores):
        own = [score for (_, of), score in scores.items() if of == seed]
        values, halves = [score["after"] for score in own], [float(score["interval"] or 0.0) for score in own]
        after = None if None in values else math.fsum(values) / len(own)
        means.append({**own[0], "after": after, "interval": math.hypot(*halves) / len(own)})
    return means


def _difference(score: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    values = score["after"], reference["after"]
    return None if None in values else float(values[0]) - float(values[1])


@dataclass(frozen=True)
class TableResult:
    """Result of `run_table`.

    Attributes:
        table: The table.
        seeds: Number of seeds that were asked for.
        budget_s: Seconds of training of a cell; None: as the jobs say.
        found: What is known of every cell that has a line.
        run_id: The tracker's id of the parent run; None without tracking.
    """

    table: Table
    seeds: int
    budget_s: float | None
    found: Sequence[Found]
    run_id: str | None

    @property
    def failed(self) -> list[Found]:
        """The cells that failed."""
        return [each for each in self.found if each.error is not None]

    @property
    def machine(self) -> Mapping[str, str | int] | None:
        """Where the last cell ran; None if none did."""
        return max((each.machine for each in self.found if each.machine), key=lambda of: str(of["date"]), default=None)

    def means(self) -> dict[str, dict[str, Mean]]:
        """Title of a row -> label of a column -> its score."""
        means: dict[str, dict[str, Mean]] = {}
        for row in (row.title for row in self.table.rows if row.shown):
            for label, scores in self._scores(row).items():
                each_seed = _by_seed(scores) if label in self.table.averages else list(scores.values())
                means.setdefault(row, {})[label] = mean_of(each_seed)
        return means

    def _scores(self, row: str) -> dict[str, dict[tuple[str, int], Mapping[str, Any]]]:
        """Label of a column -> (label of the column that a score is from, seed) -> score, of a row."""
        found: dict[str, dict[tuple[str, int], Mapping[str, Any]]] = {}
        for label in self.table.labels:
            for each in self.found:
                if each.row == row and label in each.scores:
                    found.setdefault(label, {})[label, each.seed] = each.scores[label]
        for label, parts in self.table.averages.items():
            columns = [column for column, view in parts if view.is_of(row)]
            of_columns = [found.get(column, {}) for column in columns]
            complete = set.intersection(*({seed for _, seed in each} for each in of_columns)) if columns else set()
            if complete:
                found[label] = {key: score for each in of_columns for key, score in each.items() if key[1] in complete}
        return found

    def gains(self) -> dict[str, dict[str, Mean]]:
        """Title of a row -> label of a column -> its gain over the row `against`: differences seed by seed."""
        other = {} if self.table.against is None else self._scores(self.table.against)
        gains: dict[str, dict[str, Mean]] = {}
        for row in (row.title for row in self.table.rows if row.shown and row.title != self.table.against):
            for label, scores in self._scores(row).items():
                references = other.get(label, {})
                ours = [
                    {**score, "after": _difference(score, references[key])}
                    for key, score in scores.items()
                    if key in references
                ]
                if len(ours) > 1:  # one difference has no interval
                    gains.setdefault(row, {})[label] = mean_of(ours)
        return gains

    def rows(self) -> list[dict[str, str]]:
        """A table: a row for each job; published numbers stand beside ours where there are some."""
        means, lines = self.means(), []
        for title in (row.title for row in self.table.rows if row.shown):
            runs = [each.result for each in self.found if each.row == title and each.result is not None]
            line = {"": title}
            for label in self.table.labels:
                mean = means.get(title, {}).get(label)
                line[label or "score"] = _NONE if mean is None else mean.text
                if any(column == label for _, column in self.table.published):
                    line[f"{label or 'score'}, published"] = self.table.published.get((title, label), _NONE)
            steps = f"{statistics.fmean(run['steps'] for run in runs):,.0f}" if runs else _NONE
            seeds = {each.seed for each in self.found if each.row == title and each.result is not None}
            lines.append({**line, "seeds": str(len(seeds)), "steps": steps})
        return lines

    def markdown(self) -> str:
        """The table with its title, machine, budget and notes."""
        return markdown_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """One JSON object."""
        means = {row: {label: asdict(mean) for label, mean in cells.items()} for row, cells in self.means().items()}
        gains = {row: {label: asdict(gain) for label, gain in cells.items()} for row, cells in self.gains().items()}
        published = [
            {"row": row, "column": label, "published": text} for (row, label), text in self.table.published.items()
        ]
        return {
            "name": self.table.name,
            "title": self.table.title,
            "run_id": self.run_id,
            "machine": self.machine,
            "seeds": self.seeds,
            "budget_s": self.budget_s,
            "columns": self.table.labels,
            "rows": self.rows(),
            "means": means,
            "against": self.table.against,
            "gains": gains,
            "published": published,
            "source": self.table.source,
            "notes": list(self.table.notes),
            "failed": [{"row": each.row, "seed": each.seed, "error": each.error} for each in self.failed],
        }

    def _draw_curves(self, path: Path) -> None:
        """A curve for each row and view."""
        curves: dict[str, tuple[list[float], list[float], list[float]]] = {}
        means = self.means()
        for row, cells in means.items():
            for column in self.table.columns:
                for view in column.views:
                    mean = cells.get(column.label(view))
                    if mean is not None and column.x is not None:
                        curve = curves.setdefault(f"{row}, {view.title}" if view.title else row, ([], [], []))
                        for values, value in zip(curve, (column.x, mean.mean, mean.interval), strict=True):
                            values.append(value)
        metric = next(mean.metric for cells in means.values() for mean in cells.values())
        adaptation_curve(path, curves, metric, self.table.title, self.table.xlabel)

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.md, NAME_result.json and, if there is a score, NAME.png. Their paths."""
        text, values = folder / f"{self.table.name}.md", folder / f"{self.table.name}_result.json"
        write_file(text, self.markdown().encode())
        write_file(values, json.dumps(finite(self.to_json()), indent=1).encode())
        means = self.means()
        if not means:
            return [text, values]
        picture = folder / f"{self.table.name}.png"
        if all(column.x is not None for column in self.table.columns):
            self._draw_curves(picture)
            return [text, values, picture]
        score_bars(
            picture,
            {row: {label: (mean.mean, mean.interval) for label, mean in cells.items()} for row, cells in means.items()},
            xlabel=next(mean.metric for cells in means.values() for mean in cells.values()),
            title=self.table.title,
        )
        return [text, values, picture]


def markdown_of(content: Mapping[str, Any]) -> str:
    """The text of a table, from what `TableResult.to_json` gives."""
    lines = [f"## {content['title']}", "", f"{where_and_how(content)}.", "", *markdown_table(content["rows"])]
    if content.get("gains"):
        lines += ["", f"Gain over {content['against']}, differences of runs with the same seed:", ""]
        lines += markdown_table(_gain_rows(content))
    if content["published"]:
        lines += ["", f"Published: {content['source']}"]
    for note in content["notes"]:
        lines += ["", note]
    for each in content["failed"]:
        lines += ["", f"Failed: {each['row']}, seed {each['seed']}: {each['error']}"]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a Markdown table, of rows that have the same columns."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return lines + [f"| {' | '.join(row.values())} |" for row in rows]


def _gain_rows(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each row with a gain; `+` before those that are."""
    rows = []
    for row, cells in content["gains"].items():
        gains = {label: Mean(**cell) for label, cell in cells.items() if None not in cell.values()}  # None: not finite
        texts = {label: f"{'+' if gain.mean >= 0 else ''}{gain.text}" for label, gain in gains.items()}
        rows.append({"": row} | {label or "score": texts.get(label, _NONE) for label in content["columns"]})
    return rows


def where_and_how(content: Mapping[str, Any]) -> str:
    """One line: the machine, the budget and what intervals are over."""
    where = "" if content["machine"] is None else f"{hardware_line(content['machine'])}; "
    seconds, seeds = content["budget_s"], content["seeds"]
    budget = "steps as in the jobs" if seconds is None else f"{seconds / 60:g} minutes of training a cell"
    over = f"95% intervals over {seeds} seeds" if seeds > 1 else "one seed, 95% intervals over tasks"
    return f"{where}{budget}; {over}"
