"""The scores of a table's cell: of the run's own test, scored anew under changes, or measured by the user's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distmeta.config import RunConfig
from distmeta.config.table import Table, View
from distmeta.core.code import load_target
from distmeta.core.errors import DistmetaError
from distmeta.training.evaluate import evaluate

_SCORED_TASKS = 600
Score = dict[str, Any]
"""Protocol, metric, number of tasks, mean (`after`) and half-width of its interval over tasks."""


def with_measures(table: Table, source: Path) -> Table:
    """The table with the files of its measures as absolute paths, each loaded once.

    Raises:
        UserError: A measure cannot be loaded.
    """

    def absolute(view: View) -> View:
        if view.measure is None:
            return view
        file, _, name = view.measure.rpartition(":")
        target = f"{(source.parent / file).resolve()}:{name}"
        load_target(target, None, f"{table.name}: measure")
        return replace(view, measure=target)

    columns = [replace(column, views=tuple(map(absolute, column.views))) for column in table.columns]
    return replace(table, columns=tuple(columns))


def score_views(
    views: Sequence[View], result: Mapping[str, Any], config: RunConfig, known: Mapping[str, Score | None]
) -> dict[str, Score]:
    """The scores of a run by the titles of views.

    Args:
        views: What to score.
        result: The run's, as `TrainResult.to_json` gives it.
        config: The run's.
        known: Scores from before; those of the same meta-parameters under the same changes are kept.

    Returns:
        The scores; none of a view whose protocol the network does not have.

    Raises:
        DistmetaError: There is no such metric.
    """
    measured: dict[str, Mapping[str, Any]] = {}

    def measure(target: str) -> Mapping[str, Any]:
        if target not in measured:
            measured[target] = _measured(target, result)
        return measured[target]

    scores = {view.title: _score(view, result, config, known.get(view.title), measure) for view in views}
    return {title: score for title, score in scores.items() if score is not None}


def _score(
    view: View,
    result: Mapping[str, Any],
    config: RunConfig,
    known: Score | None,
    measure: Callable[[str], Mapping[str, Any]],
) -> Score | None:
    """The score of one view; None if the network has no such protocol."""
    what = [view.protocol, view.metric, *view.evaluate]
    if view.measure is not None:
        what.append(view.measure.rpartition("/")[2])
    made_of = {"digest": result["digest"], "view": what}
    if known is not None and known.get("made_of") == made_of:
        return dict(known)
    scores, protocol = result["scores"], (result["meta_test"] or {}).get("protocol")
    if view.measure is not None:
        return {**_value(view, measure(view.measure)), "made_of": made_of}
    if view.evaluate:
        tasks = config.evaluation.final_tasks or _SCORED_TASKS
        scored = evaluate(
            result["tested"] or result["checkpoint"], tasks=tasks, overrides=view.evaluate, trust_code=True
        )
        scores, protocol = [score.to_json() for score in scored.scores], scored.protocol
    if view.protocol not in (None, *(score["protocol"] for score in scores)):
        return None
    return {**_chosen(scores, view, protocol), "made_of": made_of}


def _chosen(scores: Sequence[Mapping[str, Any]], view: View, protocol: str | None) -> Score:
    wanted = view.protocol or protocol
    found = [score for score in scores if score["protocol"] == wanted and view.metric in (None, score["metric"])]
    if not found:
        there = ", ".join(sorted({f"{score['protocol']} {score['metric']}" for score in scores})) or "no score"
        raise DistmetaError(f"no {wanted or ''} {view.metric or 'score'}; there is: {there}")
    best = next((score for score in found if score["metric"] == "accuracy"), found[0])
    return {name: best[name] for name in ("protocol", "metric", "tasks", "after", "interval")}


def _measured(target: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a measure returns for a run.

    Raises:
        DistmetaError: It raises, or returns no mapping.
    """
    where = result["tested"] or result["checkpoint"]
    try:
        values = load_target(target, None, "measure")(where)
    except DistmetaError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise DistmetaError(f"{target} raises {type(error).__name__}: {error}") from error
    if not isinstance(values, Mapping):
        raise DistmetaError(f"{target} returned {type(values).__name__}; allowed: a mapping of names to values")
    return values


def _value(view: View, values: Mapping[str, Any]) -> Score:
    """The value that a view shows, alone or with the half-width of its interval."""
    if view.metric is None or view.metric not in values:
        raise DistmetaError(f"no {view.metric}; there is: {', '.join(sorted(map(str, values))) or 'nothing'}")
    found = values[view.metric]
    mean, half = found if isinstance(found, tuple) else (found, 0.0)
    return {"protocol": "", "metric": view.metric, "tasks": 0, "after": float(mean), "interval": float(half)}
