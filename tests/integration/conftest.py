"""One Ray cluster for all tests that can share it; a current folder for a test alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distmeta.config import RuntimeConfig
from distmeta.runtime.ray.cluster import Cluster, connect


@dataclass
class SharedCluster:
    """A cluster of three workers' size on this machine, started when it is first needed."""

    cluster: Cluster | None = None

    def start(self) -> None:
        if self.cluster is None:
            self.cluster = connect(RuntimeConfig(workers=3))

    def stop(self) -> None:
        if self.cluster is not None:
            self.cluster.disconnect()
            self.cluster = None


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[SharedCluster]:
    shared = SharedCluster()
    yield shared
    shared.stop()


@pytest.fixture
def ray_cluster(shared_cluster: SharedCluster) -> None:
    """This process is connected to the shared cluster; runs with `runtime.executor=ray` use it."""
    shared_cluster.start()


@pytest.fixture
def no_cluster(shared_cluster: SharedCluster) -> None:
    """This process is connected to no cluster; runs with `runtime.executor=ray` start their own."""
    shared_cluster.stop()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder for the test alone, and no cluster that is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return tmp_path
