"""The final model of a run, loaded back from MLflow: it adapts and predicts as the checkpoint itself does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

import distmeta
from distmeta.config.load import load_config
from distmeta.core import code
from distmeta.core.errors import UserError
from distmeta.training import TrainResult, train

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

# MLflow's own, from opening a store and from importing mlflow.pyfunc (which the tests therefore do late).
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]
JOB = Path(__file__).parents[2] / "jobs" / "demo.py"


@dataclass(frozen=True)
class Logged:
    """A finished run and its model."""

    result: TrainResult
    model: PyFuncModel
    artifacts: list[str]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    folder = tmp_path_factory.mktemp("pyfunc")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    changes = [
        "name=tiny",
        "train.steps=2",
        "train.tasks_per_step=4",
        "evaluation.every=0",
        "evaluation.final_tasks=8",
        "runtime.executor=local",
        f"tracking.uri={uri}",
        f"checkpoint.path={folder / 'runs'}",
    ]
    result = train(load_config(str(JOB), changes), quiet=True)
    names = [file.path for file in MlflowClient(uri).list_artifacts(str(result.run_id), "pictures")]
    return Logged(result, loaded(uri, result), names)


def loaded(uri: str, result: TrainResult) -> PyFuncModel:
    """The model of a run."""
    model_id = MlflowClient(uri).get_run(str(result.run_id)).outputs.model_outputs[0].model_id
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        return mlflow.pyfunc.load_model(f"models:/{model_id}")
    finally:
        mlflow.set_tracking_uri(before)


@pytest.fixture
def task(logged: Logged) -> dict[str, Any]:
    """A task that the learner can take, whatever it means."""
    learner = distmeta.load(logged.result.checkpoint)
    rng = np.random.default_rng(0)
    labels = np.array([f"class {index}" for index in range(learner.way or 5)])
    return {
        "support_inputs": rng.random((len(labels), *learner.input_shape)),
        "support_targets": labels,
        "query_inputs": rng.random((7, *learner.input_shape)),
    }


@pytest.fixture
def expected(logged: Logged, task: dict[str, Any]) -> list[str]:
    predict = distmeta.load(logged.result.checkpoint).adapt(task["support_inputs"], task["support_targets"])
    labels: list[str] = predict(task["query_inputs"]).tolist()
    return labels


def test_arrays_lists_and_tables_give_the_learner_s_labels(
    logged: Logged, task: dict[str, Any], expected: list[str]
) -> None:
    nested = {name: array.tolist() for name, array in task.items()}
    assert logged.model.predict(task).tolist() == expected
    assert logged.model.predict(nested).tolist() == expected
    assert logged.model.predict(pd.DataFrame([nested])).tolist() == expected


def test_the_model_can_be_served(logged: Logged, task: dict[str, Any], expected: list[str]) -> None:
    from mlflow.pyfunc import scoring_server

    body = json.dumps({"inputs": {name: array.tolist() for name, array in task.items()}})
    answer = scoring_server.invocations(body, "application/json", logged.model, None)
    assert answer.status == 200
    assert json.loads(answer.response) == {"predictions": expected}


def test_what_does_not_fit_is_told(logged: Logged, task: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="query_inputs: missing; allowed: an input with support_inputs"):
        logged.model.predict({name: task[name] for name in ("support_inputs", "support_targets")})
    nested = {name: array.tolist() for name, array in task.items()}
    with pytest.raises(ValueError, match="a table of 2 rows; allowed: one row"):
        logged.model.predict(pd.DataFrame([nested, nested]))
    with pytest.raises(UserError):
        logged.model.predict({**task, "query_inputs": task["query_inputs"][..., :-1]})


def test_the_model_holds_no_pickle_and_the_run_its_pictures(logged: Logged) -> None:
    config = logged.model.metadata.flavors["python_function"]
    assert config["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert "python_model" not in config
    assert "pictures/adaptation_curve.png" in logged.artifacts


OWN = """
import torch
from torch import nn
from distmeta.config import RunConfig, RuntimeConfig, SinusoidTasks, TrainConfig, TrackingConfig, EvaluationConfig
from distmeta.methods import maml

def net(input_shape, num_outputs):
    return nn.Sequential(nn.Linear(*input_shape, 8), nn.Tanh(), nn.Linear(8, num_outputs))

def config():
    return RunConfig(
        name="own", tasks=SinusoidTasks(), model=net, algorithm=maml(), train=TrainConfig(steps=1),
        runtime=RuntimeConfig(executor="local"), evaluation=EvaluationConfig(every=0, final_tasks=0),
    )
"""


def test_a_model_of_one_s_own_code_brings_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    Path("own_job.py").write_text(OWN)
    result = train(load_config("own_job.py", [f"tracking.uri={uri}"]), quiet=True)
    waves = np.linspace(-5, 5, 10, dtype=np.float32)[:, None]
    expected = distmeta.load(result.checkpoint, trust_code=True).adapt(waves, np.sin(waves))(waves)
    (tmp_path / "own_job.py").unlink()
    model = loaded(uri, result)
    answer = model.predict({"support_inputs": waves, "support_targets": np.sin(waves), "query_inputs": waves})
    np.testing.assert_array_equal(answer, expected)
    with pytest.raises(UserError, match="there is no file own_job"):
        monkeypatch.setattr(code, "kept", [])
        distmeta.load(result.checkpoint, trust_code=True)
