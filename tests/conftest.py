"""Fixtures for all tests: a home folder for each, one thread, the raw data where there is any, compiled graphs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .interpreted import InterpretedGraph

# Read by torch, and by every process that a test starts, when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"


_SLOW_FIXTURES = {"native", "compiled_home", "data_dir", "omniglot_store"}


def _raw_data() -> Path | None:
    root = os.environ.get("DISTMETA_DATA")
    return Path(root).resolve() if root and Path(root).is_dir() else None


def pytest_configure() -> None:
    """A suite that is started in the background ignores interrupts, and so would the commands that it interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that compile or import real data as thorough; skip those whose data is missing."""
    for item in items:
        if _SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.thorough)
    root = _raw_data()
    if root is None or not (root / "omniglot").is_dir():
        skip = pytest.mark.skip(reason="DISTMETA_DATA does not name a folder that holds omniglot/")
        for item in items:
            if item.get_closest_marker("omniglot"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's stores, tracking server and cluster, and from each other's cores."""
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "DISTMETA_RUNS"):
        monkeypatch.delenv(name, raising=False)
    if "cluster" not in request.keywords:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all processes of a session that is spread over several (pytest-xdist) have in common."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder for the graphs of the whole session; the test is skipped where there is no compiler for them."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no C++ compiler ({compiler})")
    return shared_folder(tmp_path_factory, "compiled")


@pytest.fixture
def native(compiled_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile for real: a graph that an earlier test compiled is found again."""
    monkeypatch.setenv("DISTMETA_HOME", str(compiled_home))
    return compiled_home


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> list[InterpretedGraph]:
    """Compiled strategies without a compiler; the list holds the graphs that they make."""
    from distmeta.engine.graphs import compiled

    from .interpreted import InterpretedGraph

    monkeypatch.setattr(InterpretedGraph, "made", [])
    monkeypatch.setattr(compiled, "NativeGraph", InterpretedGraph)
    return InterpretedGraph.made


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the raw data; the test is skipped where there is none."""
    root = _raw_data()
    if root is None:
        pytest.skip("DISTMETA_DATA does not name a folder")
    return root


@pytest.fixture(scope="session")
def omniglot_store(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Omniglot's store, imported once; tests open it by this path."""
    from distmeta.data.catalog import import_store, stores_home

    if not (data_dir / "omniglot").is_dir():
        pytest.skip(f"{data_dir} holds no omniglot/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_HOME", str(tmp_path_factory.mktemp("omniglot")))
        import_store("omniglot", data_dir / "omniglot")
        path = stores_home() / "omniglot"
    return path
