"""A cluster of several hosts, started once and whole again before each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from .raylets import Cluster


def missing() -> str | None:
    """What this machine lacks to make hosts, if anything."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    if os.geteuid() != 0:
        return "making network namespaces takes root"
    return None


@pytest.fixture(scope="session")
def standing() -> Iterator[Cluster]:
    """A head that computes nothing, two nodes of one CPU each, a host to spare, and an MLflow server."""
    if reason := missing():
        pytest.skip(reason)
    with Cluster() as cluster:
        cluster.start_mlflow()
        cluster.start_head()
        cluster.add_node("one")
        cluster.add_node("two")
        cluster.network.add_host("spare")
        cluster.wait_for_mlflow()
        yield cluster


@pytest.fixture
def cluster(standing: Cluster) -> Cluster:
    """The cluster, with what an earlier test broke mended."""
    standing.mend()
    return standing
