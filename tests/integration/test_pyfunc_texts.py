"""The logged model of a text learner takes sentences: loaded in this process, and served over HTTP by MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

import distmeta
from distmeta.core.errors import UserError

from .text_run import TASK, train_words

# MLflow's own, from opening a store and from importing mlflow.pyfunc (which the tests therefore do late).
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.xdist_group("pyfunc_texts"),  # one process has the fixture of the module
]
CONFIDENCES = {"confidences": True}


@dataclass(frozen=True)
class Logged:
    """A finished run and its model."""

    checkpoint: str
    uri: str
    model_uri: str
    model: Any
    said: str

    def expected(self) -> tuple[list[str], np.ndarray]:
        """Labels and confidences of the checkpoint itself."""
        predict = distmeta.load(self.checkpoint).adapt(TASK["support_inputs"], TASK["support_targets"])
        return predict(TASK["query_inputs"]).tolist(), predict.confidences(TASK["query_inputs"])


@contextlib.contextmanager
def redirected(descriptor: int, to: int) -> Iterator[None]:
    before = os.dup(descriptor)
    os.dup2(to, descriptor)
    try:
        yield
    finally:
        os.dup2(before, descriptor)
        os.close(before)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("pyfunc_texts")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_HOME", str(folder / "home"))
        patch.chdir(folder)
        # What MLflow writes comes from a process of its own, which has this one's standard error.
        with (folder / "said").open("wb") as file, redirected(2, file.fileno()):
            result = train_words(folder, uri)
        model_id = MlflowClient(uri).get_run(str(result.run_id)).outputs.model_outputs[0].model_id
        mlflow.set_tracking_uri(uri)
        try:
            model_uri = f"models:/{model_id}"
            said = (folder / "said").read_text()
            yield Logged(result.checkpoint, uri, model_uri, mlflow.pyfunc.load_model(model_uri), said)
        finally:
            mlflow.set_tracking_uri(before)


def test_sentences_in_lists_arrays_and_tables_give_the_learner_s_labels(logged: Logged) -> None:
    labels, _ = logged.expected()
    arrays = {name: np.asarray(values) for name, values in TASK.items()}
    for task in (TASK, arrays, pd.DataFrame([TASK])):
        assert logged.model.predict(task).tolist() == labels


def test_confidences_come_with_the_names_of_the_classes(logged: Logged) -> None:
    labels, confidences = logged.expected()
    answer = logged.model.predict(TASK, params=CONFIDENCES)
    assert answer["labels"] == labels
    assert answer["classes"] == sorted(set(TASK["support_targets"]))
    np.testing.assert_allclose(answer["confidences"], confidences, rtol=1e-6)
    assert logged.model.predict(TASK, params={"confidences": False}).tolist() == labels


def test_what_are_no_sentences_is_told(logged: Logged) -> None:
    with pytest.raises(UserError, match="query inputs: entry 0 is a float"):
        logged.model.predict({**TASK, "query_inputs": [0.5]})
    with pytest.raises(UserError, match="support: 8 inputs and 7 targets"):
        logged.model.predict({**TASK, "support_targets": TASK["support_targets"][1:]})


def test_the_model_holds_its_vocabulary_and_names_what_it_needs(logged: Logged) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(logged.model_uri))
    assert len(list(folder.rglob("words.json"))) == 1
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]
    lines = (folder / "requirements.txt").read_text().split()
    assert any(line.startswith("transformers==") for line in lines)
    assert not any("minilm" in line for line in lines)


def test_recording_the_model_says_nothing_of_its_own(logged: Logged) -> None:
    assert not logged.said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(logged: Logged, folder: Path) -> Iterator[str]:
    """The URL of `mlflow models serve`, which ends with the block."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", logged.model_uri, "--env-manager", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": logged.uri}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log = folder / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/ping", timeout=5) as answer:
                    assert answer.status == 200
                    break
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_mlflow_serves_it_over_http(logged: Logged, tmp_path: Path) -> None:
    labels, confidences = logged.expected()
    with served(logged, tmp_path) as url:
        assert post(url, {"inputs": TASK}) == (200, {"predictions": labels})
        status, answer = post(url, {"inputs": TASK, "params": CONFIDENCES})
        assert status == 200
        found = answer["predictions"]
        assert found["labels"] == labels and found["classes"] == ["card", "fine", "loan", "room"]
        np.testing.assert_allclose(found["confidences"], confidences, rtol=1e-6)
        status, answer = post(url, {"inputs": {**TASK, "query_inputs": []}})
        assert status >= 400 and "no sentence" in json.dumps(answer)
