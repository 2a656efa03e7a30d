"""Fixtures for all tests: a home folder for each, one thread, the raw data where there is any, compiled graphs."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .logged import Logged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .interpreted import InterpretedGraph

# Read by torch, and by every process that a test starts, when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"
# A process that is aborted because it is stuck prints where.
os.environ["PYTHONFAULTHANDLER"] = "1"


_RECORDING = ("integration", "cli", "training", "fuzz")
"""Folders of tests that record runs: each begins with the empty MLflow store that an earlier one made."""
_LOOKS_AT_PICTURES = ("test_plots.py", "test_pictures.py")
"""Tests elsewhere leave the pictures of runs blank: drawing them takes four fifths of a short run."""
_BLANK = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
"""A PNG of one pixel."""
_NUMBERS = itertools.count()
_SLOW_FIXTURES = {"native", "compiled_home", "data_dir", "omniglot_store"}


def _raw_data() -> Path | None:
    root = os.environ.get("DISTMETA_DATA")
    return Path(root).resolve() if root and Path(root).is_dir() else None


def pytest_configure() -> None:
    """A suite that is started in the background ignores interrupts, and so would the commands that it interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()


def pytest_collection_finish() -> None:
    """Modules and tests are not garbage: to look for it while they are read takes a third of the time."""
    gc.freeze()
    gc.enable()


def pytest_make_parametrize_id(val: object) -> str | None:
    """A test is named by the start of its text: names are sent to and from each process, and documents are long."""
    return val[:60].encode("unicode_escape").decode() if isinstance(val, str) and len(val) > 60 else None


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that compile or import real data as thorough; skip those whose data is missing."""
    for item in items:
        if _SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.thorough)
        if _shares_with_its_module(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
    root = _raw_data()
    if root is None or not (root / "omniglot").is_dir():
        skip = pytest.mark.skip(reason="DISTMETA_DATA does not name a folder that holds omniglot/")
        for item in items:
            if item.get_closest_marker("omniglot"):
                item.add_marker(skip)


def _shares_with_its_module(item: pytest.Item) -> bool:
    """Whether a test uses what is made once in a module: one process then makes it, not each of them."""
    definitions = getattr(item, "_fixtureinfo", None)
    found = definitions.name2fixturedefs.values() if definitions else ()
    return any(each.scope == "module" and each.baseid for (*_, each) in found)


@pytest.fixture(autouse=True)
def _alone(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_stores: Path
) -> Iterator[None]:
    """Keep tests away from the user's stores, tracking server and cluster, and from each other's cores."""
    home = tmp_path.with_name(f"{tmp_path.name}-home")  # beside the test's own folder, whose files are its own
    monkeypatch.setenv("DISTMETA_HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "DISTMETA_RUNS"):
        monkeypatch.delenv(name, raising=False)
    if "cluster" not in request.keywords:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    if request.path.name not in _LOOKS_AT_PICTURES:
        monkeypatch.setattr("distmeta.tracking.plots.save", _save_blank)
    records = request.path.parent.name in _RECORDING
    if records:
        _copy_new(empty_stores, home / "mlflow")
    yield
    if records:
        _copy_new(home / "mlflow", empty_stores)


def _save_blank(figure: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_BLANK)


@pytest.fixture
def logged() -> Iterator[Logged]:
    """The records of warnings and worse."""
    handler, root = Logged(), logging.getLogger()
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each test. Pytest's own reads the names of all earlier ones to number it."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    path = tmp_path_factory.getbasetemp() / f"{next(_NUMBERS)}-{name}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(scope="session")
def empty_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests leave the empty MLflow store for those after them: making one takes seconds."""
    return shared_folder(tmp_path_factory, "empty_stores")


def _copy_new(source: Path, target: Path) -> None:
    for path in source.glob("empty-*.db") if source.is_dir() else ():
        if not (target / path.name).exists():
            target.mkdir(parents=True, exist_ok=True)
            temporary = target / f"{os.getpid()}.new"
            shutil.copyfile(path, temporary)
            os.replace(temporary, target / path.name)


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
