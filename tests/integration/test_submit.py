"""Jobs on a Ray cluster: a head on loopback with a token, and the command line beside it, in processes of their own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from distmeta.cli import main
from distmeta.core.paths import JOB_VARIABLE, data_home

# One process has the fixture of the module, when tests are spread over several.
pytestmark = pytest.mark.xdist_group("submit")
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 240.0
JOB = """
from distmeta.cli import run_job
from distmeta.config import *

def config() -> RunConfig:
    return RunConfig(
        name="waves",
        tasks=SinusoidTasks(shots=5, queries=5, eval_queries=5),
        model=MlpConfig(hidden=(8, 8)),
        engine=EngineConfig(strategy="vmap"),
        runtime=RuntimeConfig(workers=1, shard_size=4),
        train=TrainConfig(steps=4, tasks_per_step=4, log_every=100),
        evaluation=EvaluationConfig(final_tasks=4),
        checkpoint=CheckpointConfig(every=100),
        tracking=TrackingConfig(model=False),
    )

if __name__ == "__main__":
    run_job(__file__)
"""
ENDLESS = ["--set", "train.steps=1000000", "--set", "tracking.kind=none"]


@dataclass(frozen=True)
class Head:
    """A Ray head that runs.

    Attributes:
        address: Its job server.
        folder: Where its machine keeps everything: `runs/`, `mlflow.db`.
        environment: What a user of it has set.
        process: `ray start`.
    """

    address: str
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def runs(self) -> list[str]:
        """The checkpoints of the run `waves`."""
        return sorted(path.name for path in (self.folder / "runs" / "waves").glob("step-*"))


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def user_environment(folder: Path, **variables: str) -> dict[str, str]:
    """The variables of the test's own, without those by which a machine knows a cluster."""
    known = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in known}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "HOME": str(folder), "PATH": path, "PYTHONPATH": str(ROOT), **variables}


def start_head(folder: Path) -> Head:
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secrets.token_hex(16))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    gcs, dashboard, agent, clients = free_ports(4)
    machine = {
        "DISTMETA_HOME": str(folder / "home"),
        "DISTMETA_RUNS": str(folder / "runs"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=4", "--object-store-memory=100000000"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}/ray"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={clients}"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=user_environment(folder, **machine, **token),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{dashboard}"
    user = user_environment(folder, DISTMETA_HOME=str(folder / "user"), RAY_API_SERVER_ADDRESS=address, **token)
    return Head(address, folder, user, process)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5.0):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End `ray start` and all that it has started."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for one in alive:
        one.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(family, timeout=20)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="dm-", dir="/tmp"))  # a short path, for the sake of Ray's sockets
    found = start_head(folder)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(found.address):
            assert found.process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.3)
        yield found
    finally:
        end(found.process)
        shutil.rmtree(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's working folder, with a job in it and data beside it."""
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "large.bin").write_bytes(bytes(1000))
    (folder / "waves.py").write_text(JOB)
    monkeypatch.chdir(folder)
    return folder


def distmeta(environment: dict[str, str], *arguments: str, expect: int = 0) -> tuple[str, str]:
    """What the command prints to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "distmeta", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout, done.stderr


def digest_in(log: str) -> str:
    [digest] = [line.split()[1] for line in log.splitlines() if line.startswith("digest ")]
    return digest


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def test_a_job_is_submitted_followed_and_found_again(head: Head, here: Path) -> None:
    shutil.rmtree(head.folder / "runs", ignore_errors=True)
    out, log = distmeta(head.environment, "submit", "waves.py:config", "--follow", "--env", "WAVES=9", "--json")
    found = json.loads(out)
    assert (found["run"], found["status"]) == ("waves", "SUCCEEDED")
    assert found["dashboard"] == f"{head.address}/#/jobs/{found['job']}"
    assert "/runs/" in found["mlflow"]
    assert len(digest_in(log)) == 64
    assert head.runs()[-1] == "step-00000004"
    assert (head.folder / "mlflow.db").exists()
    listed = json.loads(distmeta(head.environment, "jobs", "list", "--json")[0])["jobs"]
    assert [(job["job"], job["run"], job["status"]) for job in listed] == [(found["job"], "waves", "SUCCEEDED")]
    status = json.loads(distmeta(head.environment, "jobs", "status", found["job"], "--json")[0])
    assert (status["status"], status["mlflow"]) == ("SUCCEEDED", found["mlflow"])
    assert digest_in(distmeta(head.environment, "jobs", "logs", found["job"])[0]) == digest_in(log)
    said = distmeta(head.environment, "jobs", "status", "nobody", expect=2)[1]
    assert said.startswith(f"error: {head.address}: ")
    assert "nobody" in said
    assert sorted(path.name for path in here.iterdir()) == ["data", "waves.py"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guessed"}, "the token is wrong"),
        ({"RAY_AUTH_MODE": "token"}, "there is no token"),
        ({}, "there is no token"),
    ],
)
def test_without_the_token_it_is_refused_in_one_line(
    head: Head, here: Path, variables: dict[str, str], reason: str
) -> None:
    stranger = user_environment(here, **variables)
    said = distmeta(stranger, "submit", "waves.py", "--address", head.address, expect=2)
    assert said[0] == ""
    assert said[1].startswith(f"error: RAY_AUTH_TOKEN: {head.address} asks for the cluster's token, and {reason}; ")
    assert len(said[1].splitlines()) == 1


@pytest.mark.slow  # its parts are tested without a job
def test_in_a_job_a_run_goes_on_by_itself(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told by Ray's variable alone. On a laptop, the same command asks what to do with the run that is there."""

    def train(*more: str, expect: int = 0) -> str:
        sets = ["--set", "runtime.executor=local", "--set", "tracking.kind=none", "--set", "evaluation.final_tasks=0"]
        with pytest.raises(SystemExit) as ended:
            main(["train", "waves.py", *sets, *more])
        captured = capsys.readouterr()
        assert ended.value.code == expect, captured.err
        return captured.out + captured.err

    runs = data_home() / "runs"

    def names(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    whole = digest_in(train())
    assert "error: name: the run 'waves' has checkpoints" in train("--set", "train.steps=2", expect=2)
    train("--set", "train.steps=2", "--anew")
    assert names(here / "runs") == ["waves", "waves~1"]
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    train("--set", "train.steps=2")
    assert digest_in(train()) == whole
    assert "error: outer.lr: is 0.5 but the run to resume" in train("--set", "outer.lr=0.5", expect=2)
    assert names(runs) == ["waves"]
    train("--no-auto-resume", expect=2)
    train("--anew")
    assert names(runs) == ["waves", "waves~1"]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_job_that_was_stopped_goes_on_when_it_is_submitted_again(
    head: Head, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(head.folder / "runs", ignore_errors=True)
    follower = subprocess.Popen(
        [sys.executable, "-m", "distmeta", "submit", "waves.py", *ENDLESS, "--follow"],
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: head.runs()[-1:] > ["step-00000000"], "a checkpoint on the way")
    follower.send_signal(signal.SIGINT)
    out, said = follower.communicate(timeout=COMMAND_TIMEOUT_S)
    job = out.splitlines()[0].split()[1]
    assert follower.returncode == 130
    assert f"{job} goes on" in said
    assert json.loads(distmeta(head.environment, "jobs", "status", job, "--json")[0])["status"] == "RUNNING"
    said = distmeta(head.environment, "submit", "waves.py", *ENDLESS, expect=2)[1]
    assert f"error: name: 'waves' is being trained by {job}" in said
    assert json.loads(distmeta(head.environment, "jobs", "stop", job, "--json")[0])["status"] == "STOPPED"

    # Ray's own command, and the file as it is.
    rest = ["--set", f"train.steps={int(head.runs()[-1].removeprefix('step-')) + 100}", "--set", "tracking.kind=none"]
    command = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "waves.py", *rest]
    done = subprocess.run(
        command, env=head.environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    resumed = digest_in(done.stdout)
    assert [path.name for path in (head.folder / "runs").iterdir() if path.is_dir()] == ["waves"]
    with pytest.raises(SystemExit):
        main(["train", "waves.py", *rest, "--set", "runtime.executor=local", "--json"])
    assert json.loads(capsys.readouterr().out)["digest"] == resumed

    # Finished: nothing is left to do. Another course is refused.
    assert digest_in(distmeta(head.environment, "submit", "waves.py", *rest, "--follow")[0]) == resumed
    other = [*rest, "--set", "outer.lr=0.5"]
    out, said = distmeta(head.environment, "submit", "waves.py", *other, "--follow", expect=1)
    assert "error: outer.lr: is 0.5 but the run to resume was started with 0.001" in out
    assert said.splitlines()[-1].startswith("error: raysubmit_")
