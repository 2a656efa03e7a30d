"""A Ray cluster over the hosts of a `Network`, an MLflow server on its head, and drivers."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ..waiting import until
from .network import Host, Network, end, titles

ROOT = Path(__file__).parents[2]
GCS_PORT, JOBS_PORT, MLFLOW_PORT = 6379, 8265, 5000
START_TIMEOUT_S = 120.0
SETTLED_S = 20.0
"""By then the head has heard of a host again, or given it up, and the host knows."""
RAY = (sys.executable, "-m", "ray.scripts.scripts")
OBJECT_STORE_BYTES = 1 << 27
PATIENCE = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}
"""How soon the head gives up a host that does not answer: within 15 s (by default, a minute)."""


class Cluster:
    """A head and nodes, each on a host of its own, with token authentication.

    A context manager: at its end every process on every host is gone, and the network too.

    Args:
        settings: Further variables for Ray's processes.
    """

    def __init__(self, settings: Mapping[str, str] = PATIENCE) -> None:
        self.token = secrets.token_hex(32)
        self.folder = Path(tempfile.mkdtemp(prefix="dmh"))  # short: Ray's sockets lie below it
        self.network = Network()
        self.head = self.network.add_host("head")
        self._settings = dict(settings)
        self._members: list[Host] = []
        self._harmed: set[str] = set()
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where nodes and drivers find the head."""
        return f"{self.head.address}:{GCS_PORT}"

    @property
    def jobs(self) -> str:
        """The job server."""
        return f"http://{self.head.address}:{JOBS_PORT}"

    @property
    def mlflow(self) -> str:
        """The MLflow server."""
        return f"http://{self.head.address}:{MLFLOW_PORT}"

    def start_head(self) -> None:
        """Start the head, which computes nothing itself, with its job server."""
        self._start_ray(
            self.head,
            "--head",
            f"--port={GCS_PORT}",
            "--num-cpus=0",
            f"--dashboard-host={self.head.address}",
            f"--dashboard-port={JOBS_PORT}",
        )

    def host(self, name: str) -> Host:
        """The host of this name."""
        return self.network.hosts[name]

    def add_node(self, name: str, cpus: int = 1) -> Host:
        """Start a node that is to stay, on a host that is made if there is none of this name."""
        host = self.network.hosts.get(name) or self.network.add_host(name)
        self._start_node(host, cpus)
        self._members.append(host)
        return host

    def add_guest(self, name: str, cpus: int = 1) -> Host:
        """Start a node that goes with the test."""
        self._harmed.add(name)
        self._start_node(self.host(name), cpus)
        return self.host(name)

    def cut(self, host: Host) -> None:
        """Unplug a host's cable."""
        self._harmed.add(host.name)
        self.network.cut(host)

    def heal(self, host: Host) -> None:
        """Plug the cable in, and start a new raylet when the old one has ended, as a supervisor such as systemd would.

        A raylet that the head has given up ends by itself as soon as it hears of it.
        """
        self.network.heal(host)
        for _ in until(START_TIMEOUT_S, f"the raylet on {host.name} did not end", every_s=0.2):
            if not any("/raylet/raylet" in title for title in titles(host.namespace)):
                break
        end(host.namespace)
        self._start_node(host)

    def plug(self, host: Host) -> None:
        """Plug the cable in, and leave the raylet as it is."""
        self.network.heal(host)

    def supervise(self, host: Host) -> None:
        """Start a new raylet where the old one has ended, or is about to as the head has given it up."""
        time.sleep(SETTLED_S)
        if not any("/raylet/raylet" in title for title in titles(host.namespace)):
            end(host.namespace)
            self._start_node(host)

    def kill_node(self, host: Host) -> None:
        """Kill the node's raylet, agents and workers at one blow."""
        self._harmed.add(host.name)
        end(host.namespace)

    def drain(self, host: Host, deadline_s: int) -> None:
        """Give notice that the node will go, as clouds do before they take a machine back."""
        self._harmed.add(host.name)
        find = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False);"
        find += "print(*(n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == sys.argv[2]))"
        [node_id] = self.run(self.head, sys.executable, "-c", find, self.address, host.address).stdout.split()
        notice = ["drain-node", "--address", self.address, "--node-id", node_id, "--reason-message", "spot"]
        notice += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds", str(deadline_s)]
        self.run(self.head, *RAY, *notice)

    def mend(self) -> None:
        """Bring the nodes that are to stay back, and end all others."""
        for name in sorted(self._harmed):
            host = self.host(name)
            self.network.heal(host)
            end(host.namespace)
            if host in self._members:
                self._start_node(host)
        self._harmed.clear()

    def run(
        self, host: Host, *command: str, token: str | None = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end. See `environment` for the token."""
        done = subprocess.run(
            host.inside(*command),
            env=self.environment(token),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            start_new_session=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}\n{done.stderr}")
        return done

    @property
    def database(self) -> Path:
        """The MLflow server's database."""
        return self.folder / "mlflow" / "mlflow.db"

    def start_mlflow(self) -> None:
        """Start an MLflow server on the head; `wait_for_mlflow` when it is needed, it takes a while."""
        folder = self.database.parent
        folder.mkdir()
        options = {
            "--host": self.head.address,
            "--port": str(MLFLOW_PORT),
            "--workers": "1",
            "--allowed-hosts": f"{self.head.address}:{MLFLOW_PORT}",
            "--backend-store-uri": f"sqlite:///{self.database}",
            "--artifacts-destination": str(folder / "artifacts"),
        }
        words = [word for option in options.items() for word in option]
        command = self.head.inside(sys.executable, "-m", "mlflow", "server", *words)
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, env=self.environment(), start_new_session=True
            )
        self._servers.append(server)

    def wait_for_mlflow(self) -> None:
        """Wait until the MLflow server answers."""
        knock = f"import socket; socket.create_connection(('{self.head.address}', {MLFLOW_PORT}), 2).close()"
        for _ in until(START_TIMEOUT_S, "the MLflow server does not answer", every_s=0.3):
            if self.run(self.head, sys.executable, "-c", knock, check=False).returncode == 0:
                return

    def environment(self, token: str | None = "") -> dict[str, str]:
        """Variables for a process on a host.

        Args:
            token: The token that it shows: the right one by default, none for None.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        # Without a token none must be found in the user's home folder either.
        none = {"HOME": str(self.folder)}
        shown = none if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or self.token}
        own = {"DISTMETA_HOME": str(self.folder / "home"), "RAY_USAGE_STATS_ENABLED": "0"}
        own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # jobs say `python`
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**kept, **shown, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **own}

    def stop(self) -> None:
        """Kill every process on every host, and remove the hosts."""
        self.network.close()
        for server in self._servers:
            server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_node(self, host: Host, cpus: int = 1) -> None:
        self._start_ray(host, f"--address={self.address}", f"--num-cpus={cpus}")

    def _start_ray(self, host: Host, *options: str) -> None:
        # Raylets that share a folder delete each other's copies of a job's working directory.
        own = (f"--node-ip-address={host.address}", f"--temp-dir={self.folder / host.name}")
        options = (*own, f"--object-store-memory={OBJECT_STORE_BYTES}", *options)
        # What runs there is what the hosts are for: Ray would give its workers a lower priority.
        settings = [f"{name}={value}" for name, value in {**self._settings, "RAY_worker_niceness": "0"}.items()]
        self.run(host, "env", *settings, *RAY, "start", "--disable-usage-stats", *options)
