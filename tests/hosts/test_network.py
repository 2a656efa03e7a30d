"""The hosts themselves: addresses, cables, and nothing left behind."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .conftest import missing
from .network import NAMESPACES, Host, Network, processes
from .raylets import ROOT

pytestmark = pytest.mark.cluster


@pytest.fixture
def network() -> Iterator[Network]:
    if reason := missing():
        pytest.skip(reason)
    with Network() as made:
        yield made


def reaches(asking: Host, asked: Host) -> bool:
    """Whether a packet gets there: nothing listens, so a host that is there refuses, and one that is not is silent."""
    knock = "import socket, sys; s = socket.socket(); s.settimeout(2); sys.exit(s.connect_ex((sys.argv[1], 9)))"
    return subprocess.run(asking.inside(sys.executable, "-c", knock, asked.address)).returncode == errno.ECONNREFUSED


def test_hosts_hear_each_other_unless_one_is_cut_off(network: Network) -> None:
    one, two, three = (network.add_host(name) for name in ("one", "two", "three"))
    assert reaches(one, two)
    network.cut(two)
    assert not reaches(one, two)
    assert reaches(one, three)
    network.heal(two)
    assert reaches(one, two)


def test_two_networks_do_not_meet_and_leave_nothing(network: Network) -> None:
    with Network() as other:
        mine, theirs = network.add_host("a"), other.add_host("a")
        assert mine.address == theirs.address
        network.add_host("b")
        assert not reaches(theirs, network.hosts["b"])
        sleeper = subprocess.Popen(theirs.inside("sleep", "600"), start_new_session=True)
        while sleeper.pid not in processes(theirs.namespace):
            assert sleeper.poll() is None
        assert processes(mine.namespace) == []
    assert sleeper.wait(10) == -9
    assert not (NAMESPACES / theirs.namespace).exists()
    assert (NAMESPACES / mine.namespace).exists()


def test_hosts_of_a_killed_process_are_swept_away() -> None:
    if reason := missing():
        pytest.skip(reason)
    program = "import os, sys; from tests.hosts.network import Network; n = Network(); n.add_host('a'); os._exit(0)"
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    assert owner.wait(60) == 0
    left = f"dm{owner.pid}n0-a"
    assert (NAMESPACES / left).exists()
    with Network():
        assert not (NAMESPACES / left).exists()
