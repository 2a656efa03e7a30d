"""What is decided before a cluster is started or connected to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import ray_constants
from ray._private import utils as ray_utils

from distmeta.config import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.runtime.ray import cluster as cluster_module
from distmeta.runtime.ray.cluster import (
    MIN_OBJECT_STORE_BYTES,
    Cluster,
    _connect_to,
    _limit_to_memory,
    _on_loopback_only,
    _signal_handlers_kept,
    connect_and_count,
    environment_variables,
    insufficient_capacity,
    wait_for_capacity,
)

GIB = 1 << 30


HTTP2_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A port of loopback on which a server gives every client this answer; None is mute."""
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    clients.append(server.accept()[0])
                    clients[-1].sendall(answer or b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for client in clients:
        client.close()


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which a gRPC server answers, on loopback alone."""
    with answering(HTTP2_SETTINGS) as port:
        yield port


@pytest.mark.parametrize(
    ("answer", "message"), [(None, r"does not answer within 0\.2 s"), (b"HTTP/1.1 400 Bad Request", "no Ray cluster")]
)
def test_a_port_that_is_mute_or_of_another_server_is_refused(
    answer: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 0.2)
    with answering(answer) as port, pytest.raises(OSError, match=message):
        _on_loopback_only(f"127.0.0.1:{port}")


def test_a_dead_cluster_is_refused_also_where_it_is_found_in_rays_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's file with the address of the last cluster stays when that cluster ends; Ray would retry for minutes."""
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(cluster_module.services, "find_gcs_addresses", lru_cache(lambda: frozenset()))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(
        UserError, match=r"^runtime\.address: cannot connect to a Ray cluster at 'auto' \(Could not find"
    ):
        _connect_to("auto", "runtime.address")
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    with answering(None) as port:
        file.write_text(f"127.0.0.1:{port}")
        message = rf"at 'auto', which is '127\.0\.0\.1:{port}' \(it does not answer within 0\.2 s\); allowed: "
        with pytest.raises(UserError, match=message):
            _connect_to("auto", "runtime.address")
    with pytest.raises(UserError, match=rf"at 'auto', which is '127\.0\.0\.1:{port}' \(.*Connection refused\)"):
        _connect_to("auto", "RAY_ADDRESS")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match=r"at 'auto', which is '127\.0\.0\.1:9' \(.*Connection refused\)"):
        _connect_to("auto", "runtime.address")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    file.write_text("")
    with pytest.raises(UserError, match=r"at 'auto', which is '' \(not HOST:PORT\)"):
        _connect_to("auto", "RAY_ADDRESS")


def test_rays_handler_of_sigterm_does_not_replace_that_of_this_process() -> None:
    before, setter = signal.getsignal(signal.SIGTERM), ray_utils.set_sigterm_handler
    with _signal_handlers_kept():
        ray_utils.set_sigterm_handler(lambda signum, frame: sys.exit(signum))
        assert signal.getsignal(signal.SIGTERM) is before
        assert ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    assert not ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER
    assert ray_utils.set_sigterm_handler is setter


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Nodes of a cluster with eight CPUs and a GPU, and of a dead node."""
    listed = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    fake = SimpleNamespace(
        nodes=lambda: listed,
        available_resources=lambda: {"CPU": 3.0},
        cluster_resources=lambda: {"CPU": 8.0, "GPU": 1.0},
    )
    monkeypatch.setattr(cluster_module, "ray", fake)
    return listed


@pytest.mark.parametrize("address", ["host", "host:", ":6379", "host:port", "http://host:6379"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ValueError, match="not HOST:PORT"):
        _on_loopback_only(address)


def test_a_cluster_that_answers_only_on_loopback_is_recognised(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module.ray.util, "get_node_ip_address", lambda: "127.0.0.2")
    assert _on_loopback_only(f"127.0.0.1:{port}")
    assert _on_loopback_only(f"localhost:{port}")
    monkeypatch.setattr(cluster_module.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    assert not _on_loopback_only(f"127.0.0.1:{port}")


def test_the_object_store_leaves_half_of_the_memory_and_a_quarter_of_the_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8 * GIB // 4096}.__getitem__)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * GIB))
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    assert _limit_to_memory(GIB) == GIB
    assert _limit_to_memory(16 * GIB) == 3 * GIB
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    assert _limit_to_memory(16 * GIB) == 4 * GIB
    assert _limit_to_memory(0) == MIN_OBJECT_STORE_BYTES


def test_variables_for_rays_processes_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    with environment_variables({"OMP_NUM_THREADS": "1", "DISTMETA_TEST": "x"}):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["DISTMETA_TEST"]) == ("1", "x")
        assert os.environ["PYTHONPATH"].endswith(f"{os.pathsep}elsewhere")
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert dict(os.environ) == before


def test_only_workers_of_an_existing_cluster_get_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTMETA_DATA", "/data")
    assert Cluster(started=True, disconnect=lambda: None).worker_environment(2) == {}
    environment = Cluster(started=False, disconnect=lambda: None).worker_environment(2)
    assert (environment["DISTMETA_DATA"], environment["OMP_NUM_THREADS"]) == ("/data", "2")


@pytest.mark.parametrize(("cpus", "gpus", "fit"), [(3.0, 0.0, 2), (4.0, 1.0, 1), (0.5, 0.5, 2)])
def test_workers_have_to_fit_on_nodes_that_are_alive(
    nodes: list[dict[str, object]], cpus: float, gpus: float, fit: int
) -> None:
    cluster = Cluster(started=False, disconnect=lambda: None)
    device = "cuda" if gpus else "cpu"
    for workers in (fit, fit + 1):
        config = RuntimeConfig(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, device=device)
        if workers == fit:
            wait_for_capacity(config, cluster, 0.0)
        else:
            with pytest.raises(UserError, match="not enough resources"):
                wait_for_capacity(config, cluster, 0.0)


def test_insufficient_capacity_names_what_is_free(nodes: list[dict[str, object]]) -> None:
    config = RuntimeConfig(workers=3, cpus_per_worker=2.0, gpus_per_worker=1.0, device="cuda")
    assert str(insufficient_capacity(config)) == (
        "runtime.workers: not enough resources for 3 workers of 2 CPUs and 1 GPUs each; "
        "the cluster has 3 of 8 CPUs free, 0 of 1 GPUs free; "
        "allowed: fewer workers, or smaller runtime.cpus_per_worker and runtime.gpus_per_worker"
    )


@pytest.mark.parametrize(
    ("fields", "workers"),
    [
        ({}, 8),
        ({"cpus_per_worker": 3.0}, 2),
        ({"device": "cuda"}, 1),
        ({"device": "cuda", "gpus_per_worker": 0.25}, 4),
        ({"ranks": 2}, 4),
    ],
)
def test_auto_is_as_many_workers_as_the_nodes_have_room_for(
    nodes: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], workers: int
) -> None:
    monkeypatch.setattr(cluster_module, "connect", lambda *_: Cluster(started=False, disconnect=lambda: None))
    config, cluster = connect_and_count(RuntimeConfig(workers="auto", leaders="auto", **fields))
    assert (config.max_workers, config.gpus_per_worker > 0) == (workers, "device" in fields)
    assert config.min_workers == 1  # training does not wait for the last of a thousand
    assert cluster is not None
    assert connect_and_count(config) == (config, None)


def test_auto_leaves_a_cluster_that_has_room_for_nobody(
    nodes: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []
    connected = Cluster(started=False, disconnect=lambda: left.append(True))
    monkeypatch.setattr(cluster_module, "connect", lambda *_: connected)
    monkeypatch.setattr(cluster_module, "AUTO_TIMEOUT_S", 0.0)
    with pytest.raises(UserError, match="not enough resources for 1 workers of 9 CPUs each"):
        connect_and_count(RuntimeConfig(workers="auto", cpus_per_worker=9.0))
    assert left == [True]
