"""Runs in a real MLflow store on SQLite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from distmeta.core.errors import UserError
from distmeta.core.paths import data_home
from distmeta.tracking.mlflow import MlflowTracker

from ..logged import Logged

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
CONFIG: dict[str, object] = {
    "name": "run",
    "outer": {"lr": 0.001, "clip_norm": None},
    "tracking": {"uri": "postgresql://me:secret@host/runs"},
}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs, to be copied: MLflow takes seconds to create one."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    tracker = MlflowTracker(f"sqlite:///{path}", "other")
    tracker.start("first", {}, None)
    tracker.close()
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def make(uri: str, tmp_path: Path) -> Callable[[], MlflowTracker]:
    return lambda: MlflowTracker(uri, "tests", unsent=tmp_path / "unsent", interval_s=0.01)


def steps(uri: str, run_id: str, key: str) -> list[int]:
    return [point.step for point in MlflowClient(uri).get_metric_history(run_id, key)]


def artifacts(uri: str, run_id: str, folder: str | None = None) -> set[str]:
    return {file.path for file in MlflowClient(uri).list_artifacts(run_id, folder)}


def test_configuration_and_environment_are_recorded_at_the_start(
    make: Callable[[], MlflowTracker], uri: str, tmp_path: Path
) -> None:
    tracker = make()
    run_id = tracker.start("run", CONFIG, None)
    run = MlflowClient(uri).get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("run", "RUNNING")
    assert run.data.params == {
        "name": "run",
        "outer.lr": "0.001",
        "outer.clip_norm": "null",
        "tracking.uri": "postgresql://me:***@host/runs",
    }
    assert {"version.python", "version.torch", "machine.host", "machine.cpus", "machine.device"} <= run.data.tags.keys()
    assert "mlflow.source.git.commit" in run.data.tags or "git.commit" not in run.data.tags
    folder = tmp_path / "mlartifacts" / run_id / "artifacts"
    masked = {**CONFIG, "tracking": {"uri": "postgresql://me:***@host/runs"}}
    assert json.loads((folder / "config.json").read_text()) == masked
    assert yaml.safe_load((folder / "config.yaml").read_text()) == masked
    assert "secret" not in str(run.to_dictionary())
    tracker.close()
    assert MlflowClient(uri).get_run(run_id).info.status == "FINISHED"


def test_the_page_opens_on_runs_and_nests_those_with_a_parent(make: Callable[[], MlflowTracker], uri: str) -> None:
    parent, child = make(), make()
    parent_id = parent.start("parent", CONFIG, None)
    child_id = child.start("child", CONFIG, None, tags={"mlflow.parentRunId": parent_id})
    child.close()
    parent.close()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None and experiment.tags == {"mlflow.experimentKind": "custom_model_development"}
    assert client.get_run(child_id).data.tags["mlflow.parentRunId"] == parent_id


def test_a_new_store_is_a_copy_of_an_empty_one(make: Callable[[], MlflowTracker], tmp_path: Path) -> None:
    locations = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        tracker = MlflowTracker(f"sqlite:///{tmp_path / name / 'mlflow.db'}", "tests")
        tracker.start("run", CONFIG, None)
        tracker.log(1, {"loss": 1.0})
        tracker.close()
        client = MlflowClient(f"sqlite:///{tmp_path / name / 'mlflow.db'}")
        experiments = {each.name: each for each in client.search_experiments()}
        assert {name: each.experiment_id for name, each in experiments.items()} == {"Default": "0", "tests": "1"}
        locations.append(experiments["tests"].artifact_location)
        assert len(client.search_runs(["1"])) == 1
    assert locations == [(tmp_path / name / "mlartifacts").as_uri() for name in ("first", "second")]
    [template] = (data_home() / "mlflow").iterdir()
    assert template.name.startswith("empty-")


def test_values_and_files_are_recorded(make: Callable[[], MlflowTracker], uri: str, tmp_path: Path) -> None:
    tracker = make()
    run_id = tracker.start("run", CONFIG, None)
    checkpoint = tmp_path / "step-3"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text('{"config": {"checkpoint": {"path": "s3://KEY:secret@bucket/runs"}}}')
    (tmp_path / "plot.png").write_bytes(b"png")
    for step in range(1, 4):
        tracker.log(step, {"train/loss": 1.0 / step, "train/accuracy": float("nan")})
    tracker.artifact(checkpoint, "checkpoints")
    tracker.artifact(tmp_path / "plot.png", "pictures")
    shutil.rmtree(checkpoint)
    tracker.close()
    assert steps(uri, run_id, "train/loss") == steps(uri, run_id, "train/accuracy") == [1, 2, 3]
    assert artifacts(uri, run_id, "checkpoints/step-3") == {"checkpoints/step-3/state.json"}
    recorded = tmp_path / "mlartifacts" / run_id / "artifacts" / "checkpoints" / "step-3" / "state.json"
    assert json.loads(recorded.read_text()) == {"config": {"checkpoint": {"path": "s3://KEY:***@bucket/runs"}}}
    assert artifacts(uri, run_id, "pictures") == {"pictures/plot.png"}
    assert not (tmp_path / "unsent").exists()


def test_a_resumed_run_records_each_step_once(make: Callable[[], MlflowTracker], uri: str) -> None:
    tracker = make()
    run_id = tracker.start("run", CONFIG, None)
    for step in (10, 20, 30):
        tracker.log(step, {"train/loss": float(step)})
    tracker.log(20, {"val/accuracy": 0.5})
    tracker.close("FAILED")
    assert MlflowClient(uri).get_run(run_id).info.status == "FAILED"

    tracker = make()
    assert tracker.start("run", {**CONFIG, "outer": {"lr": 0.002, "clip_norm": None}, "new": 1}, run_id) == run_id
    run = MlflowClient(uri).get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["outer.lr"] == "0.001" and run.data.params["new"] == "1"
    assert run.data.tags["distmeta.changed_on_resume"] == "outer.lr: 0.001 -> 0.002"
    for step in (20, 30, 40, 40):
        tracker.log(step, {"train/loss": -1.0, "val/accuracy": 0.75})
    tracker.close()
    client = MlflowClient(uri)
    losses = [(point.step, point.value) for point in client.get_metric_history(run_id, "train/loss")]
    assert losses == [(10, 10.0), (20, 20.0), (30, 30.0), (40, -1.0)]
    assert steps(uri, run_id, "val/accuracy") == [20, 30, 40]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_resuming_an_unknown_run_creates_a_new_one(make: Callable[[], MlflowTracker], uri: str, logged: Logged) -> None:
    unknown = "0" * 32
    tracker = make()
    run_id = tracker.start("run", CONFIG, unknown)
    tracker.close()
    assert run_id != unknown
    assert MlflowClient(uri).get_run(run_id).data.tags["distmeta.continues"] == unknown
    assert unknown in logged.text


def test_missing_files_are_logged_and_do_not_end_the_run(
    make: Callable[[], MlflowTracker], tmp_path: Path, logged: Logged
) -> None:
    tracker = make()
    tracker.start("run", CONFIG, None)
    tracker.artifact(tmp_path / "none.png", "")
    tracker.model(tmp_path / "none", "model")
    tracker.close()
    assert logged.text.count("cannot be recorded") == 2


def test_the_address_names_the_command_that_serves_the_store(make: Callable[[], MlflowTracker], uri: str) -> None:
    tracker = make()
    run_id = tracker.start("run", {}, None)
    tracker.close()
    address = tracker.address()
    assert address is not None and address.startswith("http://127.0.0.1:5000/#/experiments/")
    charts = f"/runs/{run_id}/model-metrics?workflowType=machine_learning"
    assert address.endswith(f"{charts}  (open it with: distmeta ui --uri {uri})")


def test_a_deleted_experiment_is_reported(make: Callable[[], MlflowTracker], uri: str) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("tests"))
    with pytest.raises(UserError, match=r"tracking\.experiment: the experiment 'tests' has been deleted"):
        make().start("run", {}, None)


@pytest.mark.parametrize(
    "uri",
    ["nonsense://me:secret@host", "postgresql+nodriver://me:secret@host/runs", "sqlite:////proc/none/mlflow.db"],
)
def test_an_unusable_store_is_reported_in_one_line(uri: str) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri: the store .* cannot be used: .*; allowed: ") as raised:
        MlflowTracker(uri, "tests").start("run", {}, None)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
