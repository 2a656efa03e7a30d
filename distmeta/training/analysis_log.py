"""An analysis as a run of the tracker: its numbers as metrics, its tables and pictures as artifacts."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distmeta.config.tracking import TrackingConfig
from distmeta.core.json_values import finite
from distmeta.tracking import Tracker, build_tracker
from distmeta.training.analysis_result import AnalysisResult
from distmeta.training.run import end_status

FOLDER = "analysis"
"""Folder of the artifacts."""


@contextmanager
def run_of_tracker(config: TrackingConfig, name: str, settings: dict[str, Any]) -> Iterator[Tracker]:
    """A run that ends with the block. It is opened before anything is computed, so that a store which cannot be used is
    found out first.

    Args:
        config: Where to record.
        name: Name of what is analysed.
        settings: What is recorded as the run's parameters.

    Raises:
        UserError: The store cannot be used.
    """
    tracker = build_tracker(config)
    tracker.start(f"analysis of {name}", settings, None)
    try:
        yield tracker
    except BaseException as error:
        tracker.close(end_status(type(error)))
        raise
    tracker.close()


def log_analysis(tracker: Tracker, result: AnalysisResult) -> None:
    """Record a result: metrics `PART.MEASURE.ROW`, `analysis.json` and a picture of each part."""
    rows = [(part, row) for part, found in result.parts.items() for row in found.rows]
    metrics = {f"{part}.{name}": value for part, row in rows for name, value in row.metrics().items()}
    tracker.log(result.step, {_key(name): value for name, value in metrics.items() if math.isfinite(value)})
    tracker.text(json.dumps(finite(result.to_json()), indent=2, allow_nan=False), f"{FOLDER}/analysis.json")
    with tempfile.TemporaryDirectory() as folder:
        for path in result.draw(Path(folder)):
            tracker.artifact(path, FOLDER)


def _key(name: str) -> str:
    """A name of a metric that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "", name, flags=re.ASCII)
