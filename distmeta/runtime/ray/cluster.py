"""Finding, starting and leaving the Ray cluster, and room in it.

An address (`runtime.address`, then RAY_ADDRESS) is connected to; without one, a cluster is started for this process: on
loopback only, with Ray's token authentication, without dashboard and usage reports, and ended with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from distmeta.config import RuntimeConfig
from distmeta.core.errors import UserError
from distmeta.core.logs import quiet

OBJECT_STORE_BYTES = 1 << 30
MIN_OBJECT_STORE_BYTES = 1 << 27
OWN_PLACEMENT_TIMEOUT_S = 10.0
REACH_TIMEOUT_S = 10.0
_ROOM_POLL_S = 0.2
_SHARED_MEMORY = "/dev/shm"

_FORWARDED = ("DISTMETA_DATA", "DISTMETA_HOME")


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray.

    Attributes:
        started: This process started the cluster.
        leave: Ends the connection, and a cluster that this process started with it.
    """

    started: bool
    leave: Callable[[], None]

    def worker_environment(self, threads: int) -> dict[str, str]:
        """Variables to set for workers; those of a cluster started here inherit them, which starts them sooner."""
        return {} if self.started else _environment(threads)


def connect(config: RuntimeConfig, object_store_bytes: int | None = None) -> Cluster:
    """Use the Ray that this process is connected to already, or the one at the configured address, or start one.

    Args:
        config: Address, and the workers for which a cluster that is started needs room.
        object_store_bytes: Size of its object store; None takes a gibibyte.

    Raises:
        UserError: Nothing answers at the address, or it refuses this process.
    """
    if ray.is_initialized():
        return Cluster(started=False, leave=lambda: None)
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _join(address, "runtime.address" if config.address else "RAY_ADDRESS")
    else:
        _start(config, _within_memory(object_store_bytes or OBJECT_STORE_BYTES))
    return Cluster(started=not address or address == "local", leave=ray.shutdown)


def await_room(config: RuntimeConfig, cluster: Cluster, timeout_s: float) -> None:
    """Wait until the workers to begin with fit on the machines that are there.

    Raises:
        UserError: They do not within the time allowed.
    """
    share = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    bundle = {name: amount for name, amount in share.items() if amount > 0}
    deadline = time.monotonic() + (min(timeout_s, OWN_PLACEMENT_TIMEOUT_S) if cluster.started else timeout_s)
    while _room(bundle) < config.min_workers:
        if time.monotonic() > deadline:
            raise no_room(config)
        time.sleep(_ROOM_POLL_S)


def no_room(config: RuntimeConfig) -> UserError:
    """The error for workers that do not fit."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    bundle = {name: amount for name, amount in wanted.items() if amount > 0}
    listed = ", ".join(f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}s free" for name in bundle)
    each = " and ".join(f"{amount:g} {name}s" for name, amount in bundle.items())
    return UserError(
        f"no room for {config.min_workers} workers of {each} each; the cluster has {listed}",
        where="runtime.workers",
        allowed="fewer workers, or smaller runtime.cpus_per_worker and runtime.gpus_per_worker",
    )


def _room(bundle: Mapping[str, float]) -> int:
    """How many fit on the nodes that are alive, were they empty."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(int(min(has.get(name, 0.0) / amount for name, amount in bundle.items())) for has in alive)


def _join(address: str, where: str) -> None:
    try:
        with _loopback() if address != "auto" and _on_loopback_only(address) else contextlib.nullcontext():
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"no Ray cluster can be used at '{address}' ({reason})",
            where=where,
            allowed="the HOST:PORT of a running cluster (with its token), 'auto', or nothing, to start one here",
        ) from error


def _on_loopback_only(address: str) -> bool:
    """Find out who answers before Ray does, which would go on asking for minutes.

    Returns:
        True for a cluster on this machine's loopback alone, where Ray would look for it at the machine's own address.

    Raises:
        ValueError: This is not HOST:PORT.
        OSError: Nothing answers.
    """
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdecimal()) or "/" in host:
        raise ValueError("not HOST:PORT")
    _touch(host.strip("[]"), int(port))
    if host not in ("localhost", "127.0.0.1", "[::1]"):
        return False
    try:
        _touch(ray.util.get_node_ip_address(), int(port))  # type: ignore[no-untyped-call]
    except OSError:
        return True
    return False


def _touch(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=REACH_TIMEOUT_S):
        pass


def _start(config: RuntimeConfig, object_store_bytes: int) -> None:
    """Start a cluster on this machine that has room for the workers, also where they share cores."""
    needed = -(-config.max_workers * config.cpus_per_worker // 1)
    # Ray runs its workers at a lower priority than everything else; here they are what the machine is for.
    environment = {**_environment(config.threads_per_worker), "RAY_worker_niceness": "0"}
    with _variables(environment), _loopback(), quiet("ray._private.authentication"):
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, int(needed)),
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )


def _environment(threads: int) -> dict[str, str]:
    forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    return {**forwarded, "OMP_NUM_THREADS": str(threads)}


def _within_memory(wanted: int) -> int:
    """No more than half of the memory, and what is free of that which is shared, where the store lies."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else memory
    return max(MIN_OBJECT_STORE_BYTES, min(wanted, memory // 2, shared * 3 // 4))


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that Ray starts, among them the place of this package."""
    package_parent = str(Path(__file__).resolve().parents[3])
    paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    values = {**values, "PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Let the cluster's servers listen on loopback, and look for them there.

    Ray does so where clusters of several machines are switched off (as on macOS). The switch is an environment variable
    that is read when Ray is imported, which may be long past, so its result is set here.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
