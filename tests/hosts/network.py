"""Hosts on one machine: a network namespace each, with an address of its own on a bridge.

The bridge lies in a namespace too, so nothing of the machine's own network is touched, several networks with the same
addresses can stand beside each other, and with the namespaces everything is gone. Needs root and `ip`.

    switch:  bridge 10.77.0.254/24 -- h1 -- h2 -- ...
    host 1:  eth0 10.77.0.1/24, default route through the bridge
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..waiting import until

NAMESPACES = Path("/run/netns")
END_TIMEOUT_S = 30.0

_serials = itertools.count()


@dataclass(frozen=True)
class Host:
    """A namespace.

    Attributes:
        name: What the test calls it.
        namespace: What `ip netns` calls it.
        address: Its address on the bridge.
        port: The bridge's end of its cable.
    """

    name: str
    namespace: str
    address: str
    port: str

    def inside(self, *command: str) -> list[str]:
        """The command that runs `command` on this host. Its process id is that of `command`."""
        return ["ip", "netns", "exec", self.namespace, *command]


class Network:
    """A bridge and the hosts on it.

    A context manager: whatever runs on the hosts is killed at the end, and the hosts are removed.
    """

    def __init__(self) -> None:
        _sweep()
        self.hosts: dict[str, Host] = {}
        self._prefix = f"dm{os.getpid()}n{next(_serials)}"
        self._switch = f"{self._prefix}-switch"
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "address", "add", "10.77.0.254/24", "dev", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_host(self, name: str) -> Host:
        """Add a host with the next free address."""
        number = len(self.hosts) + 1
        host = Host(name, f"{self._prefix}-{name}", f"10.77.0.{number}", f"h{number}")
        self.hosts[name] = host
        _ip("netns", "add", host.namespace)
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        link = ("type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("-n", self._switch, "link", "add", host.port, *link)
        _ip("-n", self._switch, "link", "set", host.port, "master", "bridge", "up")
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
        # Ray finds its own address by asking for the way to an address on the internet.
        _ip("-n", host.namespace, "route", "add", "default", "via", "10.77.0.254")
        return host

    def cut(self, host: Host) -> None:
        """Unplug the host's cable at the switch; its processes go on and see nothing but silence."""
        _ip("-n", self._switch, "link", "set", host.port, "down")

    def heal(self, host: Host) -> None:
        """Plug the cable in again."""
        _ip("-n", self._switch, "link", "set", host.port, "up")

    def close(self) -> None:
        """Kill what runs on the hosts, and remove them."""
        for name in (self._switch, *(host.namespace for host in self.hosts.values())):
            if (NAMESPACES / name).exists():
                end(name)
                _ip("netns", "delete", name)
        self.hosts.clear()


def processes(namespace: str) -> list[int]:
    """Ids of the processes in a namespace, whoever started them; those that have ended are left out."""
    wanted = (NAMESPACES / namespace).stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended, which also takes its namespace away
                if (entry / "ns/net").stat().st_ino == wanted:
                    found.append(int(entry.name))
    return found


def titles(namespace: str) -> list[str]:
    """The command lines of the processes in a namespace; Ray's workers write there what they do."""
    found = []
    for pid in processes(namespace):
        with contextlib.suppress(OSError):
            found.append(
                Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            )
    return found


def end(namespace: str, *, spare: frozenset[int] = frozenset()) -> None:
    """Kill every process in a namespace and wait until there is none.

    Args:
        namespace: Its name.
        spare: Ids of processes to leave alone.

    Raises:
        TimeoutError: Some are left.
    """
    for _ in until(END_TIMEOUT_S, f"processes are left in {namespace}"):
        left = set(processes(namespace)) - spare
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _sweep() -> None:
    """Remove what processes left that were killed before they could clean up."""
    for entry in sorted(NAMESPACES.glob("dm*n*-*")):
        owner = re.fullmatch(r"dm(\d+)n\d+-\w+", entry.name)
        if owner and not Path("/proc", owner[1]).exists():
            with contextlib.suppress(FileNotFoundError, RuntimeError):  # another process may be at it
                end(entry.name)
                _ip("netns", "delete", entry.name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
