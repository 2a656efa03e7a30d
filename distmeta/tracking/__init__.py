"""Experiment tracking. Importing this package loads neither MLflow nor matplotlib."""

from __future__ import annotations

from distmeta.config.tracking import TrackingConfig
from distmeta.tracking.base import Tracker
from distmeta.tracking.mlflow import MlflowTracker
from distmeta.tracking.null import NullTracker
from distmeta.tracking.uris import tracking_uri

__all__ = ["MlflowTracker", "NullTracker", "Tracker", "build_tracker"]


def build_tracker(config: TrackingConfig) -> Tracker:
    """Build the configured tracker. No store is opened before `Tracker.start`."""
    if config.kind == "none":
        return NullTracker()
    return MlflowTracker(tracking_uri(config.uri, config.uri_file), config.experiment)
