"""Experiment tracking. Importing this package loads neither MLflow nor matplotlib, nor the configuration: the process
that talks to MLflow needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distmeta.tracking.base import Tracker
from distmeta.tracking.mlflow import MlflowTracker
from distmeta.tracking.null import NullTracker
from distmeta.tracking.uris import tracking_uri

if TYPE_CHECKING:
    from distmeta.config.tracking import TrackingConfig

__all__ = ["MlflowTracker", "NullTracker", "Tracker", "build_tracker"]


def build_tracker(config: TrackingConfig) -> Tracker:
    """Build the configured tracker. No store is opened before `Tracker.start`."""
    if config.kind == "none":
        return NullTracker()
    return MlflowTracker(tracking_uri(config.uri, config.uri_file), config.experiment)
