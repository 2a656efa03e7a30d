"""A worker whose two ranks are on two hosts, one of which is killed: the digest of one process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distmeta.config import PythonModel
from distmeta.config.load import change

from ..packages import needs
from .drivers import Driver, sinusoid, undisturbed
from .raylets import ROOT, Cluster

pytestmark = [needs("deepspeed"), pytest.mark.cluster, pytest.mark.timeout(600)]

NET = ROOT / "tests" / "integration" / "frozen_net.py"


def test_ranks_on_two_hosts_give_the_bits_of_one_also_after_one_is_killed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(NET, tmp_path)
    monkeypatch.chdir(tmp_path)
    alone = sinusoid(tmp_path, "ranks", "runtime.workers=1", "engine.strategy=loop", "checkpoint.every=2")
    alone = alone.model_copy(update={"model": PythonModel(target="frozen_net.py:FrozenNet")})
    config = change(alone, ["runtime.ranks=2"])
    one, two = cluster.host("one"), cluster.host("two")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(one, two)
        driver.reach(10)
        driver.pause()
        spare = cluster.add_guest("spare")
        cluster.kill_node(one)
        driver.wait_for_work_on(two, spare)
        driver.reach(10)
        print(f"the longest pause: {driver.pause():.1f} s")
        step, digest = driver.kill()
    assert digest == undisturbed(alone, step)
