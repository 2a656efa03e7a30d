"""Training over several hosts, some of which fail, come and go: the result has the bits of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from .drivers import Driver, sinusoid, undisturbed
from .raylets import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

GOES_ON_WITHIN_S = 30.0
NOTICED_WITHIN_S = 40.0  # by then the run's heartbeats and Ray's have both given a silent host up


def test_three_hosts_give_the_same_bits_and_report_to_the_head(cluster: Cluster, tmp_path: Path) -> None:
    tracked = ("tracking.kind=mlflow", f"tracking.uri={cluster.mlflow}", "tracking.model=false")
    config = sinusoid(tmp_path, "spread", "train.steps=200", "outer.average=0.9", *tracked)
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(cluster.host("one"), cluster.host("two"))
        result = driver.result()
    assert result["steps"] == 200
    assert result["digest"] == undisturbed(config, 200)
    client = MlflowClient(f"sqlite:///{cluster.database}")
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert result["address"].startswith(cluster.mlflow)
    names = [name for name in run.data.metrics if name.startswith("train/")]
    assert names
    for name in names:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        assert steps == [1, *range(10, 201, 10)], name


def test_a_killed_raylet_costs_no_bit(cluster: Cluster, tmp_path: Path) -> None:
    config = sinusoid(tmp_path, "bereft")
    one, two = cluster.host("one"), cluster.host("two")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(one, two)
        cluster.kill_node(one)
        gap_s = driver.reach(timeout_s=GOES_ON_WITHIN_S)
        print(f"went on {gap_s:.1f} s after a raylet was killed")
        driver.wait_for_work_on(two)
        driver.reach(50)
        step, digest = driver.kill()
    assert digest == undisturbed(config, step)


def test_a_host_that_joins_gets_work_without_a_pause(cluster: Cluster, tmp_path: Path) -> None:
    config = sinusoid(tmp_path, "joined", "runtime.workers=1..3")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(cluster.host("one"), cluster.host("two"))
        driver.reach(20)
        driver.pause()
        spare = cluster.add_guest("spare")
        joined_s = driver.wait_for_work_on(spare)
        driver.reach(50)
        print(f"work on the new host {joined_s:.1f} s after it was there; longest pause {driver.pause():.1f} s")
        step, digest = driver.kill()
    assert digest == undisturbed(config, step)


def test_a_host_under_notice_is_left_before_it_goes(cluster: Cluster, tmp_path: Path) -> None:
    config = sinusoid(tmp_path, "noticed", "runtime.workers=1..2")
    one, two = cluster.host("one"), cluster.host("two")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(one, two)
        cluster.drain(one, deadline_s=60)
        left_s = driver.wait_for_no_work_on(one)
        print(f"left {left_s:.1f} s after the notice")
        cluster.kill_node(one)
        driver.wait_for_work_on(two)
        driver.reach(50)
        step, digest = driver.kill()
    assert digest == undisturbed(config, step)


def test_a_host_cut_off_delays_the_run_for_seconds_and_gets_work_again(cluster: Cluster, tmp_path: Path) -> None:
    config = sinusoid(tmp_path, "cut", "runtime.workers=1..2")
    one, two = cluster.host("one"), cluster.host("two")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(one, two)
        driver.reach(20)
        driver.pause()
        cluster.cut(one)
        driver.reach(10, timeout_s=GOES_ON_WITHIN_S)
        driver.watch(NOTICED_WITHIN_S)
        print(f"the longest pause after the cut: {(pause_s := driver.pause()):.1f} s")
        assert pause_s < GOES_ON_WITHIN_S
        cluster.heal(one)
        back_s = driver.wait_for_work_on(one)
        print(f"work on the healed host {back_s:.1f} s after it was there")
        driver.reach(50)
        step, digest = driver.kill()
    assert digest == undisturbed(config, step)


@pytest.mark.parametrize("leaders", [0, 1])
def test_a_loose_cable_costs_pauses_but_no_bit(cluster: Cluster, tmp_path: Path, leaders: int) -> None:
    """It is off for up to some seconds, again and again: shorter than what gives a host up, and longer."""
    config = sinusoid(tmp_path, f"loose-{leaders}", "runtime.workers=1..2", f"runtime.leaders={leaders}")
    one, two = cluster.host("one"), cluster.host("two")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(one, two)
        driver.reach(20)
        driver.pause()
        for off_s, on_s in ((0.3, 0.5), (1.0, 1.0), (3.0, 0.5), (0.3, 0.2), (6.0, 2.0), (1.0, 0.3)):
            cluster.cut(one)
            driver.watch(off_s)
            cluster.plug(one)
            driver.watch(on_s)
        cluster.supervise(one)
        driver.reach(10)
        print(f"the longest pause while the cable was loose: {driver.pause():.1f} s")
        driver.wait_for_work_on(one, two)
        driver.reach(50)
        step, digest = driver.kill()
    assert digest == undisturbed(config, step)


def test_leaders_on_hosts_pass_large_snapshots_on_and_add_units_to_the_same_bits(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Updates of a megabyte, two whole units and a part of one: the third host has the snapshot from another one."""
    large = ("model.hidden=[512, 512]", "train.tasks_per_step=40", "runtime.shard_size=1")
    config = sinusoid(tmp_path, "led", "runtime.workers=3", "runtime.leaders=3", *large)
    one, two, spare = cluster.host("one"), cluster.host("two"), cluster.add_guest("spare")
    with Driver(cluster, config) as driver:
        driver.wait_for_work_on(one, two, spare)
        driver.reach(20)
        cluster.kill_node(one)
        gap_s = driver.reach(timeout_s=GOES_ON_WITHIN_S)
        print(f"went on {gap_s:.1f} s after the raylet of a host with a leader was killed")
        driver.reach(10)
        step, digest = driver.kill()
    assert digest == undisturbed(config, step)
