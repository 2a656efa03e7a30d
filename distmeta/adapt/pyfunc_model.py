"""A checkpoint as an MLflow model: adapt to the support set of a request, predict its queries.

MLflow copies this file into the model and runs it as a script when the model is loaded ("models from code"), so that no
pickle is involved.

    model = mlflow.pyfunc.load_model(uri)
    model.predict({"support_inputs": x, "support_targets": y, "query_inputs": q})
    model.predict({...}, params={"confidences": True})

A learner of texts takes lists of sentences. Served over HTTP, the dictionary holds nested lists: `{"inputs":
{"support_inputs": [...], ...}, "params": {"confidences": true}}`. The model's MLflow signature names this parameter
alone: a signature of a dictionary requires columns of equal length or fixes the exact type of each tensor, and either
would refuse valid tasks. The learner checks the inputs instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from typing_extensions import override

FIELDS = ("support_inputs", "support_targets", "query_inputs")


class AdaptAndPredict(PythonModel):
    """Adapts the checkpoint's learner to each request's support set."""

    @override
    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that the model was logged with."""
        import distmeta
        from distmeta.core import code
        from distmeta.tracking.logged_model import OWN_CODE

        checkpoint = context.artifacts["checkpoint"]
        code.kept.append(Path(checkpoint) / OWN_CODE)
        self.learner = distmeta.load(checkpoint, trust_code=True)  # an MLflow model is code

    # MLflow warns without a type hint, has none for tensors of different lengths, and does not check this one.
    @override
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Adapt to the support set and predict the queries.

        Args:
            context: Unused; `load_context` has loaded the checkpoint.
            model_input: `support_inputs` [N, ...], `support_targets` [N] and `query_inputs` [Q, ...], as a dictionary
                of arrays or nested lists, or as a table of one row with these columns.
            params: `confidences`: whether the answer holds the probabilities of the classes.

        Returns:
            Class labels [Q] of the type of `support_targets`, or values [Q, outputs] for regression. With
            `confidences`, a dictionary of `labels`, `classes` (C of them) and `confidences` [Q, C].

        Raises:
            ValueError: A field is missing, or a table does not have exactly one row.
            UserError: The inputs do not fit the learner, or a learner of regression is asked for confidences.
        """
        support_inputs, support_targets, query_inputs = (_field(model_input, name) for name in FIELDS)
        predictor = self.learner.adapt(support_inputs, support_targets)
        if not (params or {}).get("confidences"):
            return np.asarray(predictor(query_inputs))
        confidences, classes = predictor.confidences(query_inputs), predictor.classes
        assert classes is not None  # without classes there are no confidences
        labels = classes[confidences.argmax(1)]
        return {"labels": labels.tolist(), "classes": classes.tolist(), "confidences": confidences.tolist()}


def _field(model_input: Any, name: str) -> Any:
    if name not in model_input:
        raise ValueError(f"{name}: missing; allowed: an input with {', '.join(FIELDS)}")
    if isinstance(model_input, dict):
        return model_input[name]
    if len(model_input) != 1:
        raise ValueError(f"model_input: a table of {len(model_input)} rows; allowed: one row, which is one task")
    return model_input[name].iloc[0]


mlflow.models.set_model(AdaptAndPredict())
