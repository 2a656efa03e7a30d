"""Starting, connecting to and disconnecting from clusters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from ray import cloudpickle

from distmeta.config import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Snapshot, Work
from distmeta.runtime import build_executor
from distmeta.runtime.ray.cluster import connect

from .. import fakes
from ..fakes import FakeRecipe, make_params, make_shards

pytestmark = [pytest.mark.usefixtures("no_cluster"), pytest.mark.xdist_group("ray")]


def descendants(pid: int) -> list[psutil.Process]:
    processes: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return processes


def still_running(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Processes that have not ended after `timeout_s`; zombies have."""
    deadline = time.monotonic() + timeout_s
    while alive := [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return alive


def listening(process: psutil.Process) -> list[str]:
    return [connection.laddr.ip for connection in process.net_connections() if connection.status == psutil.CONN_LISTEN]


@pytest.fixture
def fakes_by_value() -> Iterator[None]:
    """Workers cannot import the tests."""
    cloudpickle.register_pickle_by_value(fakes)
    yield
    cloudpickle.unregister_pickle_by_value(fakes)


@pytest.mark.slow
def test_auto_takes_all_that_a_cluster_has(fakes_by_value: None) -> None:
    cluster = connect(RuntimeConfig(workers=3))
    try:
        executor = build_executor(RuntimeConfig(workers="auto"), FakeRecipe())
        executor.ready()
        results = list(executor.map(Work("update"), Snapshot(0, make_params()), make_shards(6)))
        assert (len(results), len(executor.workers())) == (6, 3)
        executor.close()
        assert ray.is_initialized()  # it was there before
    finally:
        cluster.disconnect()


@pytest.mark.slow
def test_a_local_cluster_holds_more_workers_than_cores_and_ends_with_the_executor(
    fakes_by_value: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not ray.is_initialized()
    environment, before = dict(os.environ), descendants(os.getpid())
    workers = (os.cpu_count() or 1) + 1
    executor = build_executor(RuntimeConfig(workers=workers, threads_per_worker=1), FakeRecipe())
    try:
        assert ray.cluster_resources()["CPU"] >= workers
        results = list(executor.map(Work("update"), Snapshot(0, make_params()), make_shards(2 * workers)))
        assert len(results) == 2 * workers
        started = [process for process in descendants(os.getpid()) if process not in before]
        assert any("raylet" in process.name() for process in started)
        addresses = {ip for process in started for ip in listening(process)}
        assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    finally:
        executor.close()
        executor.close()
    assert not ray.is_initialized()
    assert still_running(started, timeout_s=30) == []
    assert {name: os.environ.get(name) for name in environment} == environment
    assert capfd.readouterr() == ("", "")


def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^runtime.address: cannot connect to a Ray cluster at '127.0.0.1:9'"):
        build_executor(RuntimeConfig(address="127.0.0.1:9"), FakeRecipe())
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(UserError, match=r"^RAY_ADDRESS: cannot connect to a Ray cluster at 'nonsense'"):
        build_executor(RuntimeConfig(), FakeRecipe())


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[str]]:
    """Another process with a cluster of its own, whose address it prints."""
    program = textwrap.dedent("""
        import ray, time
        from distmeta.config import RuntimeConfig
        from distmeta.runtime.ray.cluster import connect
        connect(RuntimeConfig(workers=2))
        print(ray.get_runtime_context().gcs_address, flush=True)
        time.sleep(600)
    """)
    command = [sys.executable, "-c", program]
    # In a session of its own: when a driver is killed, Ray ends the whole process group that it belonged to.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        process.kill()


@pytest.mark.slow
def test_an_existing_cluster_is_used_and_goes_on(
    driver: subprocess.Popen[str], fakes_by_value: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert driver.stdout is not None
    monkeypatch.setenv("RAY_ADDRESS", driver.stdout.readline().strip())
    for _ in range(2):
        executor = build_executor(RuntimeConfig(workers=2, threads_per_worker=1), FakeRecipe())
        results = list(executor.map(Work("about"), Snapshot(0, make_params()), make_shards(3)))
        executor.close()
        assert len(results) == 3
        assert not ray.is_initialized()
    assert driver.poll() is None


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    driver.stdout.readline()
    started = descendants(driver.pid)
    assert any("raylet" in process.name() for process in started)
    driver.send_signal(signal.SIGKILL)
    assert still_running(started, timeout_s=120) == []  # Ray's agents take a minute to notice


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux says which signals a process handles")
@pytest.mark.slow
def test_ray_installs_no_signal_handlers_in_this_process() -> None:
    """SIGTRAP is handled by Ray's C++ alone, which would print a stack on SIGTERM."""
    code = """
        import re, signal
        from pathlib import Path
        from distmeta.config import RuntimeConfig
        from distmeta.runtime.ray.cluster import connect

        cluster = connect(RuntimeConfig(workers=1))
        caught = int(re.search(r"SigCgt:\\s*(\\w+)", Path("/proc/self/status").read_text())[1], 16)
        cluster.disconnect()
        assert not caught >> (signal.SIGTRAP - 1) & 1
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)
