"""Experiment tracking."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import Text, Url


class TrackingConfig(Frozen):
    """Experiment tracking.

    Attributes:
        kind: `mlflow`, or `none`.
        uri: MLflow's tracking URI; None takes MLFLOW_TRACKING_URI, or `sqlite:///mlflow.db` in the working folder
            (in a Ray job, whose working folder is deleted, in DISTMETA_HOME).
        uri_file: File that holds the URI, for one with a password; only its owner may read it (mode 0600).
        experiment: MLflow experiment.
        model: Log the final model as a pyfunc that adapts and predicts.
    """

    kind: Literal["mlflow", "none"] = "mlflow"
    uri: Url | None = None
    uri_file: Text | None = None
    experiment: Text = Field("distmeta", min_length=1, max_length=250)
    model: bool = True

    @model_validator(mode="after")
    def _one_uri(self) -> Self:
        if self.uri is not None and self.uri_file is not None:
            raise ValueError("tracking.uri and tracking.uri_file are given together; allowed: one of them")
        return self
