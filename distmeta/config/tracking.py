"""Experiment tracking."""

from __future__ import annotations

from typing import Literal

from distmeta.config.base import Frozen


class TrackingConfig(Frozen):
    """Experiment tracking.

    Attributes:
        kind: `mlflow`, or `none`.
        uri: MLflow's tracking URI; None takes MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db` in the working folder
            (in a Ray job, whose working folder is deleted, in DISTMETA_HOME).
        experiment: MLflow experiment.
        model: Log the final model as a pyfunc that adapts and predicts.
    """

    kind: Literal["mlflow", "none"] = "mlflow"
    uri: str | None = None
    experiment: str = "distmeta"
    model: bool = True
