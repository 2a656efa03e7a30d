"""The connection to a Ray cluster, and the resources of that cluster.

The process connects to an address (`runtime.address`, then RAY_ADDRESS). Without one it starts a cluster that ends with
it: on loopback only, with Ray's token authentication, without dashboard and usage reports.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services, utils

from distmeta.config import RuntimeConfig
from distmeta.config.runtime import AUTO
from distmeta.core.deadline import answer_within
from distmeta.core.errors import UserError
from distmeta.core.logs import quiet
from distmeta.core.signals import SIGNALS
from distmeta.runtime.ray.tokens import check_private_token, ensure_private_token

OBJECT_STORE_BYTES = 1 << 30
MIN_OBJECT_STORE_BYTES = 1 << 27
LOCAL_PLACEMENT_TIMEOUT_S = 10.0
AUTO_TIMEOUT_S = 60.0
STEPS_IN_OBJECT_STORE = 4
"""Steps whose updates fit into the object store of a cluster started here."""
CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 9.0
_CAPACITY_POLL_S = 0.2
_HTTP2_SETTINGS = 4
_HTTP2_INTRODUCTION = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _HTTP2_SETTINGS, 0, 0, 0, 0, 0))
_SHARED_MEMORY = "/dev/shm"

_FORWARDED_VARIABLES = ("DISTMETA_DATA", "DISTMETA_HOME")


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray.

    Attributes:
        started: Whether this process started the cluster.
        disconnect: Closes the connection, and stops the cluster if this process started it.
    """

    started: bool
    disconnect: Callable[[], None]

    def worker_environment(self, threads: int) -> dict[str, str]:
        """Environment variables to set for workers. In a cluster started here they inherit them, which is faster."""
        return {} if self.started else _worker_environment(threads)


def connect(config: RuntimeConfig, store_bytes: int | None = None) -> Cluster:
    """Use the cluster that this process is connected to, or connect to the configured address, or start a cluster.

    Args:
        config: Address, and the workers that a cluster started here must have resources for.
        store_bytes: Size of its object store; None is a gibibyte.

    Raises:
        UserError: Nothing answers at the address, or it refuses this process.
    """
    if ray.is_initialized():
        return Cluster(started=False, disconnect=lambda: None)
    address = config.address or os.environ.get("RAY_ADDRESS")
    with _signal_handlers_kept():
        if address and address != "local":
            check_private_token()
            _connect_to(address, "runtime.address" if config.address else "RAY_ADDRESS")
            return Cluster(started=False, disconnect=ray.shutdown)
        ensure_private_token()
        _start_local(config, _limit_to_memory(store_bytes or OBJECT_STORE_BYTES))
        return Cluster(started=True, disconnect=_stop_local(_session_folder()))


def _session_folder() -> Path:
    node: Any = ray._private.worker._global_node
    return Path(node.get_session_dir_path())


def _stop_local(session: Path) -> Callable[[], None]:
    """Stop the cluster started here, and remove its folder of logs and sockets."""

    def stop() -> None:
        ray.shutdown()
        latest = session.with_name("session_latest")
        with contextlib.suppress(OSError):
            if (latest.is_symlink() and not latest.exists()) or latest.resolve() == session.resolve():
                latest.unlink()
        shutil.rmtree(session, ignore_errors=True)

    return stop


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Keep this process's signal handlers, also while Ray starts or connects.

    Ray would set its own: one in Python, which ends the process with exit code 15 and without a word, and one in C++,
    which prints a stack on SIGTERM. Ray reads the constant when it connects; its workers have their own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    set_sigterm_handler = utils.set_sigterm_handler
    disabled = getattr(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", False)  # older versions of Ray lack it
    utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = lambda _: None, True
    try:
        yield
    finally:
        utils.set_sigterm_handler, ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = set_sigterm_handler, disabled
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def object_store_bytes(num_workers: int, update_bytes: int) -> int:
    """Size of the object store of a cluster started here."""
    return max(OBJECT_STORE_BYTES, STEPS_IN_OBJECT_STORE * num_workers * update_bytes)


def connect_and_count(config: RuntimeConfig, update_bytes: int = 0) -> tuple[RuntimeConfig, Cluster | None]:
    """Connect first where the cluster decides how many workers there are.

    Returns:
        The configuration with their number, and the connection. Where the number is given, None: nothing is done.

    Raises:
        UserError: As `connect` and `wait_for_capacity`.
    """
    if config.workers != AUTO:
        return config, None
    if config.device != "cpu" and not config.gpus_per_worker:
        config = config.model_copy(update={"gpus_per_worker": 1.0})
    cluster = connect(config, object_store_bytes(os.cpu_count() or 1, update_bytes))
    try:
        wait_for_capacity(config, cluster, AUTO_TIMEOUT_S)
    except BaseException:
        cluster.disconnect()
        raise
    count = _capacity(resources_of(config)) // config.ranks
    leaders = config.leaders if config.leaders == "auto" else min(config.leaders, count)
    return config.model_copy(update={"workers": f"1..{count}", "leaders": leaders}), cluster


def wait_for_capacity(config: RuntimeConfig, cluster: Cluster, timeout_s: float) -> None:
    """Wait until the cluster's nodes have resources for the initial workers.

    Raises:
        UserError: They have not after `timeout_s`.
    """
    deadline = time.monotonic() + (min(timeout_s, LOCAL_PLACEMENT_TIMEOUT_S) if cluster.started else timeout_s)
    while _capacity(resources_of(config)) < config.min_workers * config.ranks:
        if time.monotonic() > deadline:
            raise insufficient_capacity(config)
        time.sleep(_CAPACITY_POLL_S)


def insufficient_capacity(config: RuntimeConfig) -> UserError:
    """Make the error for a cluster without resources for the initial workers."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    resources = resources_of(config)
    listed = ", ".join(f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}s free" for name in resources)
    ranks = "" if config.ranks == 1 else f"{config.ranks} ranks of "
    each = ranks + " and ".join(f"{amount:g} {name}s" for name, amount in resources.items())
    return UserError(
        f"not enough resources for {config.min_workers} workers of {each} each; the cluster has {listed}",
        where="runtime.workers",
        allowed="fewer workers, or smaller runtime.cpus_per_worker and runtime.gpus_per_worker",
    )


def resources_of(config: RuntimeConfig) -> dict[str, float]:
    """What Ray reserves for each actor."""
    resources = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    return {name: amount for name, amount in resources.items() if amount > 0}


def num_nodes() -> int:
    """Nodes of the cluster that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] for node in nodes)


def _capacity(resources: Mapping[str, float]) -> int:
    """Number of workers that the nodes that are alive could hold if they were idle."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return sum(int(min(total.get(name, 0.0) / amount for name, amount in resources.items())) for total in alive)


def _connect_to(address: str, where: str) -> None:
    server = address
    try:
        server = _host_and_port(address)
        on_loopback_only = answer_within(_PROBE_TIMEOUT_S, partial(_on_loopback_only, server))
        with _loopback() if on_loopback_only else contextlib.nullcontext():
            ray.init(address=server, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = f"'{address}'" if server == address else f"'{address}', which is '{server}'"
        raise UserError(
            f"cannot connect to a Ray cluster at {place} ({reason})",
            where=where,
            allowed="the HOST:PORT of a running cluster (with its token), 'auto', or nothing, to start one here",
        ) from error


def _host_and_port(address: str) -> str:
    """The address itself; for `auto`, RAY_ADDRESS or that of a cluster on this machine.

    That cluster may have ended long ago: Ray notes the address of the last one in a file that stays.

    Raises:
        OSError: There is none, or the file cannot be read.
        ValueError: The file is not text.
    """
    if address != "auto":
        return address
    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    return str(services.get_ray_address_from_environment(address, None))


def _on_loopback_only(address: str) -> bool:
    """Check that something answers at an address, since Ray would retry for minutes.

    Returns:
        True for a cluster that listens only on this machine's loopback; Ray would try the machine's own address.

    Raises:
        ValueError: This is not HOST:PORT.
        OSError: Nothing answers.
    """
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdecimal()) or "/" in host:
        raise ValueError("not HOST:PORT")
    _probe(host.strip("[]"), int(port))
    if host not in ("localhost", "127.0.0.1", "[::1]"):
        return False
    try:
        _probe(ray.util.get_node_ip_address(), int(port))  # type: ignore[no-untyped-call]
    except OSError:
        return True
    return False


def _probe(host: str, port: int) -> None:
    """Check that a gRPC server answers: it sends HTTP/2 settings as soon as a client has introduced itself.

    Raises:
        OSError: Nothing answers in time, or something else.
    """
    with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0", "false", "False"):
            return
        connection.sendall(_HTTP2_INTRODUCTION)
        try:
            answer = connection.recv(9)
        except TimeoutError:
            raise OSError(f"it does not answer within {CONNECT_TIMEOUT_S:g} s") from None
        if len(answer) < 4 or answer[3] != _HTTP2_SETTINGS:
            raise OSError("what answers there is no Ray cluster")


def _start_local(config: RuntimeConfig, object_store_bytes: int) -> None:
    """Start a cluster on this machine with resources for all workers, even if they share cores."""
    num_cpus = math.ceil(config.max_workers * config.ranks * config.cpus_per_worker)
    # Ray runs workers at a lower priority than other processes; here they do the machine's main work.
    environment = {**_worker_environment(config.threads_per_worker), "RAY_worker_niceness": "0"}
    with environment_variables(environment), _loopback(), quiet("ray._private.authentication"):
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, num_cpus),
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )


def _worker_environment(threads: int) -> dict[str, str]:
    forwarded = {name: os.environ[name] for name in _FORWARDED_VARIABLES if name in os.environ}
    return {**forwarded, "OMP_NUM_THREADS": str(threads)}


def _limit_to_memory(store_bytes: int) -> int:
    """Limit the object store to half of the memory and three quarters of the free shared memory that holds it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = shutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else memory
    return max(MIN_OBJECT_STORE_BYTES, min(store_bytes, memory // 2, shared * 3 // 4))


@contextlib.contextmanager
def environment_variables(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that Ray starts, among them the path of this package."""
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
    """Make a cluster's servers listen on loopback, and connect to them there.

    Ray does so if clusters of several nodes are disabled (as on macOS). It reads that environment variable when it is
    imported, which may have happened before, so the constant is set here.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
