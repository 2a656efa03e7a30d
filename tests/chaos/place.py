"""The place of a run under faults: a head and nodes of one Ray cluster on loopback, an MLflow server, and a store.

Each raylet with its agents and workers is a session, so is the server: they can be killed and started anew one by one.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Collection
from pathlib import Path

import psutil

from ..waiting import until
from .sessions import Session, Sessions, title

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "cluster" / "local.py"
START_TIMEOUT_S = 180.0
OBJECT_STORE_BYTES = 100 << 20
STORE = "24m"
PATIENCE = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
"""How soon the head gives up a raylet that does not answer: within about ten seconds (by default, a minute)."""
_STARTED = b"Ray runtime started"


class Place:
    """Everything that can be broken, and its mending.

    Args:
        folder: Where it all lies; a short path, since Ray's sockets lie below it.
        nodes: Nodes of one CPU each. The head has none.
        home: DISTMETA_HOME of drivers and workers.

    Attributes:
        sessions: Its processes, and those of its drivers.
        nodes: The session of each node's newest raylet, by name.
        server: That of the newest MLflow server.
        runs: Where checkpoints lie.
    """

    def __init__(self, folder: Path, nodes: int, home: Path) -> None:
        self._folder = folder
        command = [sys.executable, str(LOCAL), "ports", str(5 + nodes)]
        ports = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        self._port, self._mlflow_port, self._dashboard_port, self._client_port, *self._agent_ports = ports
        self.database = folder / "mlflow.db"
        self.runs = folder / "runs"
        self._store, self._broken = folder / "store", folder / "broken"
        self.sessions = Sessions(secrets.token_hex(8), self._environment(home), folder)
        self.nodes: dict[str, Session] = {}
        self._names = [f"node{number}" for number in range(1, nodes + 1)]
        self._starts = 0
        self._mounted = False

    @property
    def address(self) -> str:
        """The Ray cluster."""
        return f"127.0.0.1:{self._port}"

    @property
    def mlflow(self) -> str:
        """The MLflow server."""
        return f"http://127.0.0.1:{self._mlflow_port}"

    def start(self) -> None:
        """Bring all of it up."""
        self._make_store()
        self.start_server()
        ports = [f"--dashboard-port={self._dashboard_port}", f"--ray-client-server-port={self._client_port}"]
        head = [f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false", *ports]
        self._head = self._start_ray("head", 0, "--head", *head)
        for _ in until(START_TIMEOUT_S, "the head does not come up", every_s=0.2):
            if _STARTED in self._head.log.read_bytes():
                break
            assert self._head.alive, self._head.log.read_text()[-2000:]
        for name in self._names:
            self.start_node(name)
            for _ in until(START_TIMEOUT_S, f"{name} does not come up", every_s=0.2):
                self.start_ended_nodes()
                if _STARTED in self.nodes[name].log.read_bytes():
                    break
        for _ in until(START_TIMEOUT_S, "the MLflow server does not answer", every_s=0.3):
            if self._server_answers():
                return

    def start_node(self, name: str) -> None:
        """Start a node; what the one before of this name has left is ended first, as systemd does."""
        if name in self.nodes:
            self.nodes[name].end()
        number = 1 + self._names.index(name)
        self.nodes[name] = self._start_ray(name, number, f"--address={self.address}", "--num-cpus=1")

    def start_ended_nodes(self, *, but: Collection[str] = ()) -> None:
        """Start those nodes again that have ended; on a busy machine a raylet may give up while it starts."""
        for name, session in self.nodes.items():
            if name not in but and not session.alive:
                self.start_node(name)

    def actors(self, name: str, kind: str = "WorkerActor") -> list[psutil.Process]:
        """The workers of runs on a node, or their leaders (`LeaderActor`)."""
        return [one for one in self.nodes[name].members() if title(one).startswith(f"ray::{kind}")]

    def raylet(self, name: str) -> psutil.Process | None:
        """The raylet of a node; None if there is none."""
        found = [one for one in self.nodes[name].members() if "/raylet/raylet" in title(one).partition(" ")[0]]
        return found[0] if found else None

    def start_server(self) -> None:
        """Start an MLflow server, on the same port and database each time."""
        self._starts += 1
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._mlflow_port)]
        command += ["--workers", "1", "--artifacts-destination", str(self._folder / "artifacts")]
        self.server = self.sessions.start(f"mlflow-{self._starts}", command)

    @property
    def can_be_full(self) -> bool:
        """Whether the store of checkpoints is a disk of its own, which takes root."""
        return self._mounted

    def replace_runs(self) -> None:
        """Let a file lie where the folders of all runs were, at one blow."""
        self._link(self._broken)

    def restore_runs(self) -> None:
        """Put them back."""
        self._link(self._store)

    def fill(self) -> None:
        """Write until the disk is full to its last byte."""
        with (self._store / ".ballast").open("ab", buffering=0) as ballast:
            for block in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        ballast.write(bytes(block))
                except OSError:
                    continue

    def empty(self) -> None:
        """Make room again."""
        (self._store / ".ballast").unlink()

    def stop(self) -> None:
        """Ask everything to end, as a shutdown does."""
        for session in [*self.nodes.values(), self._head, self.server]:
            session.send(signal.SIGCONT)
            session.send(signal.SIGTERM)

    def remove(self) -> None:
        """End everything by force and unmount the store."""
        self.sessions.end()
        if self._mounted:
            subprocess.run(["umount", str(self._store)], check=True)

    def _make_store(self) -> None:
        self._store.mkdir()
        self._broken.write_text("a file where a folder was\n")
        if os.geteuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE}", "distmeta-chaos", str(self._store)]
            self._mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self._link(self._store)

    def _link(self, target: Path) -> None:
        new = self.runs.with_suffix(".new")
        new.symlink_to(target)
        new.replace(self.runs)

    def _server_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.mlflow}/health", timeout=1.0):
                return True
        except OSError:
            return False

    def _start_ray(self, name: str, number: int, *options: str) -> Session:
        self._starts += 1
        command = [sys.executable, str(LOCAL), "ray", "start", "--block", "--disable-usage-stats", *options]
        command += ["--node-ip-address=127.0.0.1", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command += [f"--dashboard-agent-listen-port={self._agent_ports[number]}"]
        command += [f"--temp-dir={self._folder / f'r{self._starts}'}"]
        return self.sessions.start(f"{name}-{self._starts}", command)

    def _environment(self, home: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        ours = {
            "PYTHONPATH": os.pathsep.join(paths),
            "DISTMETA_HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.database}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        return {**kept, **ours, **PATIENCE}
