"""A checkpoint as an MLflow model, written with the client only: MLflow's global state stays as the user has it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from distmeta.core.logs import quiet
from distmeta.tracking.environment import package_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SCRIPT = Path(__file__).parents[1] / "adapt" / "pyfunc_model.py"
_REQUIRED = ("distmeta", "mlflow", "numpy", "safetensors", "torch")


def requirements() -> list[str]:
    """The packages that the model needs, at the versions it was trained with.

    A local build's suffix (`+cpu`) is left out: the machine that serves the model has a build of its own.
    """
    installed = {package: package_version(package) for package in _REQUIRED}
    return [f"{package}=={version.partition('+')[0]}" for package, version in installed.items() if version]


def log_checkpoint(client: MlflowClient, experiment_id: str, run_id: str, checkpoint: Path, name: str) -> str:
    """Keep a checkpoint with a run as the model `name`.

    The model is the script `pyfunc_model.py` and the checkpoint's files; there is no pickle in it.

    Args:
        client: The store.
        experiment_id: The run's experiment.
        run_id: The run.
        checkpoint: Folder of the checkpoint.
        name: The model's name.

    Returns:
        The model's URI, for `mlflow.pyfunc.load_model`.
    """
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, model_type="distmeta")
    model = Model(run_id=run_id, model_id=logged.model_id, artifact_path=logged.artifact_location)
    # It says that it has inferred no signature; pyfunc_model.py says why there is none.
    with quiet("mlflow.pyfunc"), tempfile.TemporaryDirectory(prefix="distmeta-model-") as folder:
        path = str(Path(folder) / "model")
        pyfunc.save_model(
            path=path,
            python_model=str(_SCRIPT),
            artifacts={"checkpoint": str(checkpoint)},
            pip_requirements=requirements(),
            mlflow_model=model,
        )
        client.log_model_artifacts(logged.model_id, path)
    client.finalize_logged_model(logged.model_id, status=LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return f"models:/{logged.model_id}"
