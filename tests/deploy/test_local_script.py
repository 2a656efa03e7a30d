"""`cluster/local.sh`: what it refuses, and for real: up, a job, a job without the token, down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .deployed import CLUSTER, ROOT

SCRIPT = CLUSTER / "local.sh"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
JOB = "import os; print('ok', sorted(name for name in os.environ if name.startswith(('DISTMETA_', 'MLFLOW_T'))))"

Script = Callable[..., subprocess.CompletedProcess[str]]


def run(*arguments: str, timeout: float = 30, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHON": sys.executable, **variables}
    command = [str(SCRIPT), *arguments]
    # Its processes hold no pipe of ours: their output goes to logs.
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def test_the_shell_and_its_checker_take_it() -> None:
    assert os.access(SCRIPT, os.X_OK)
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, str(SCRIPT)], check=True)
    code = [line for line in SCRIPT.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in code if "ray stop" in line or "pkill" in line or "killall" in line]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start"], "unknown command 'start'; allowed: up, status, env, down"),
        (["up", "--nodes", "2"], "unknown option '--nodes'"),
        (["up", "--workers", "two"], "--workers: 'two' is not a number"),
        (["up", "--workers", "0"], "--workers: at least 1"),
        (["up", "--object-store-mb", "1"], "--object-store-mb: at least 75"),
        (["up", "--dir"], "--dir needs a value"),
        (["env"], "nothing is up in"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"local.sh: {message}") and done.stderr.count("\n") == 1


def test_a_python_without_ray_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    done = run("up", PYTHON=str(bare))
    assert done.returncode == 2
    assert done.stderr == f"local.sh: {bare} has no ray and mlflow; set PYTHON to one that has\n"


def test_without_a_cluster_there_is_nothing_to_end(tmp_path: Path) -> None:
    assert run("status", "--dir", str(tmp_path / "c")).returncode == 3
    assert run("down", "--dir", str(tmp_path / "c")).returncode == 0
    assert run("--help").stdout.startswith("usage: cluster/local.sh up|status|env|down")


# --- for real ---


def of_cluster(mark: str) -> list[psutil.Process]:
    """The processes that were started with the mark, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("DISTMETA_CLUSTER") == mark:
                found |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue
    return [one for one in found.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    home = {"DISTMETA_HOME": str(folder)}
    try:
        done = run("up", timeout=200, **home)
        assert done.returncode == 0, done.stderr
        assert "distmeta submit jobs/sinusoid.py:maml --address http://127.0.0.1:" in done.stdout
        yield folder / "cluster"
    finally:
        run("down", timeout=100, **home)


def exported(cluster: Path) -> dict[str, str]:
    done = run("env", "--dir", str(cluster))
    assert done.returncode == 0
    pairs = [line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines()]
    return {name: value for name, value in pairs}


def submit(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Submit a job from a process of its own: Ray reads the token once for each."""
    program = f"""
import os, time
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"])
job = client.submit_job(entrypoint={f'python -c "{JOB}"'!r})
while not client.get_job_status(job).is_terminal():
    time.sleep(0.2)
print(client.get_job_status(job).value, client.get_job_logs(job))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | variables
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.cluster
def test_a_cluster_takes_jobs_with_the_token_only_and_goes_without_a_trace(cluster: Path, tmp_path: Path) -> None:
    variables = exported(cluster)
    token = Path(variables["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert variables["RAY_AUTH_MODE"] == "token"

    status = run("status", "--dir", str(cluster))
    assert status.returncode == 0, status.stdout
    assert "nodes: 3 of 3 alive" in status.stdout
    # In one folder, a node would delete the working folder of a job that another one runs.
    assert {path.name for path in (cluster / "ray").iterdir()} == {"0", "1", "2"}
    assert run("up", "--dir", str(cluster)).returncode == 2  # up already

    done = submit(variables)
    assert "SUCCEEDED" in done.stdout and "ok" in done.stdout, done.stderr
    for name in ("DISTMETA_HOME", "DISTMETA_RUNS", "MLFLOW_TRACKING_URI"):
        assert name in done.stdout

    without = {"RAY_API_SERVER_ADDRESS": variables["RAY_API_SERVER_ADDRESS"], "HOME": str(tmp_path)}
    refused = submit(without)
    assert refused.returncode != 0
    assert "Missing authentication token" in refused.stderr
    secret = token.read_text()
    assert secret not in done.stdout + done.stderr + refused.stderr + status.stdout
    assert not [path for path in (cluster / "log").iterdir() if secret in path.read_text()]

    started = of_cluster((cluster / "mark").read_text().strip())
    assert sum(process.name() == "raylet" for process in started) == 3
    listening = {
        (connection.laddr.ip, process.name())
        for process in started
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert {ip for ip, _ in listening} <= LOOPBACK, listening
    assert all(process.nice() == psutil.Process().nice() for process in started)

    # A node that has died is told, and `down` ends the rest.
    worker = next(
        line.split()[1] for line in (cluster / "pids").read_text().splitlines() if line.startswith("worker-2")
    )
    os.killpg(int(worker), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while run("status", "--dir", str(cluster)).returncode != 3:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert run("down", "--dir", str(cluster), timeout=100).returncode == 0
    assert [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
    assert not token.exists()
    assert (cluster / "mlflow.db").exists()


def scraped(cluster: Path) -> str:
    """What all nodes say to Prometheus, whose list of them Ray keeps."""
    targets = json.loads((cluster / "ray" / "0" / "prom_metrics_service_discovery.json").read_text())[0]["targets"]
    pages = []
    for target in targets:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as page:
            pages.append(page.read().decode())
    return "\n".join(pages)


@pytest.mark.cluster
def test_a_running_job_is_seen_by_prometheus_and_by_top(cluster: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | exported(cluster)

    def distmeta(*arguments: str) -> str:
        command = [sys.executable, "-m", "distmeta", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    changes = ["name=watched", "train.steps=100000", "runtime.workers=2", "evaluation.final_tasks=0"]
    submitted = distmeta("submit", "jobs/sinusoid.py:maml", "--json", *(f"--set={change}" for change in changes))
    job = json.loads(submitted.splitlines()[-1])["job"]
    try:
        deadline, page = time.monotonic() + 120, ""
        while "ray_distmeta_worker_busy_share{" not in page and time.monotonic() < deadline:
            time.sleep(2)
            page = scraped(cluster)
        lines = [line for line in page.splitlines() if line.startswith("ray_distmeta_worker_busy_share{")]
        assert {label for line in lines for label in re.findall(r'worker="(\d)"', line)} == {"0", "1"}
        assert all('run="watched"' in line and 'host="127.0.0.1"' in line for line in lines)
        shown = json.loads(distmeta("jobs", "top", "watched", "--json"))
        assert (shown["status"], shown["workers"]["run"]) == ("RUNNING", "watched")
        assert [worker["state"] for worker in shown["workers"]["workers_now"]] == ["ready", "ready"]
    finally:
        distmeta("jobs", "stop", job)


@pytest.mark.cluster
def test_a_node_that_leaves_is_missed_by_nobody(cluster: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | exported(cluster)

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(python("-m", "distmeta", "jobs", "top", "leaving", "--json"))
        return found["workers"] or {"workers_now": [], "step": 0.0, "failures_by_node": {}}

    def wait(states: list[str]) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while True:
            now = shown()
            if sorted(worker["state"] for worker in now["workers_now"]) == states:
                return now
            assert time.monotonic() < deadline, now
            time.sleep(3)

    changes = ["name=leaving", "train.steps=100000", "runtime.workers=1..2", "evaluation.final_tasks=0"]
    options = [f"--set={change}" for change in changes]
    submitted = python("-m", "distmeta", "submit", "jobs/sinusoid.py:maml", "--json", *options)
    job = json.loads(submitted.splitlines()[-1])["job"]
    try:
        before = wait(["ready", "ready"])
        [going] = [worker["node"] for worker in before["workers_now"] if worker["index"] == 1]
        started = going.split("(")[1].rstrip(")")  # the first digits of the node's id
        program = "import ray; ray.init(logging_level='ERROR'); print(*(node['NodeID'] for node in ray.nodes()))"
        [node_id] = [each for each in python("-c", program).split() if each.startswith(started)]
        python(str(CLUSTER / "ray" / "leave.py"), "--address", environment["RAY_ADDRESS"], "--node-id", node_id)
        after = wait(["pending", "ready"])
        assert after["failures_by_node"] == {}  # it went as it should
        assert after["step"] > before["step"]
    finally:
        python("-m", "distmeta", "jobs", "stop", job)
