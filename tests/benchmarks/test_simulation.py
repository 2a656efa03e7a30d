"""The simulation beside cases with a result by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.cluster.model.costs import Costs, Machines
from benchmarks.cluster.model.events import EventQueue, SharedResource
from benchmarks.cluster.model.led import LedSimulation
from benchmarks.cluster.model.simulation import Simulation


def steps(costs: Costs, machines: Machines, seconds: list[float], count: int = 1, payload: float = 0.0) -> list[float]:
    simulation = Simulation(costs, machines, payload)
    return [simulation.step(seconds) for _ in range(count)]


def test_one_worker_does_one_shard_after_the_other() -> None:
    (step_s,) = steps(Costs(latency_s=0.1), Machines(1, 1, 2), [1.0, 2.0])
    # There and back once: the second shard is queued while the first is computed.
    assert step_s == pytest.approx(0.1 + 3.0 + 0.1)


def test_two_workers_share_out_the_shards() -> None:
    assert steps(Costs(), Machines(2, 2, 1), [1.0, 2.0, 3.0]) == [pytest.approx(4.0)]  # shards 0 and 2; 1
    assert steps(Costs(), Machines(2, 2, 1), [1.0] * 4) == [pytest.approx(2.0)]


def test_all_costs_of_one_shard_follow_each_other() -> None:
    costs = Costs(
        begin_s=1.0,
        begin_byte_s=0.1,
        assign_s=2.0,
        report_s=3.0,
        report_byte_s=0.2,
        outer_s=4.0,
        outer_byte_s=0.3,
        shard_s=5.0,
        shard_byte_s=0.4,
        ray_s=6.0,
        ray_byte_s=0.5,
        latency_s=7.0,
    )
    (step_s,) = steps(costs, Machines(1, 1, 4), [10.0], payload=10.0)
    assert step_s == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) + 10 * (0.1 + 0.2 + 0.3 + 0.4 + 0.5) + 2 * 7 + 10)


def test_bound_by_the_driver() -> None:
    # Reports come at once, and are taken one after the other, however many workers there are.
    costs = Costs(begin_s=0.5, assign_s=0.125, report_s=1.0, outer_s=0.25)
    assert steps(costs, Machines(4, 4, 64), [0.0] * 4) == [pytest.approx(0.5 + 4 * 0.125 + 4 * 1.0 + 0.25)]


def test_bound_by_computing() -> None:
    costs = Costs(report_s=0.125)
    # Three shards each; only the reports of the last ones, which come together, are not hidden behind computing.
    assert steps(costs, Machines(4, 4, 64), [1.0] * 12) == [pytest.approx(3.0 + 4 * 0.125)]


def test_cores_are_shared_by_a_machines_workers() -> None:
    costs = Costs(shard_s=1.0)
    assert steps(costs, Machines(4, 4, 2), [0.0] * 4) == [pytest.approx(2.0)]
    assert steps(costs, Machines(4, 4, 3), [0.0] * 4) == [pytest.approx(4 / 3)]
    assert steps(costs, Machines(4, 2, 2), [0.0] * 4) == [pytest.approx(1.0)]
    computing = Machines(4, 4, 2, computing_takes_core=True)
    assert steps(Costs(), computing, [1.0] * 4) == [pytest.approx(2.0)]


def test_the_link_is_shared_by_the_other_machines() -> None:
    machines = Machines(3, 1, 1, link_bytes_s=10.0)
    # The snapshot goes out to two machines (at 10 bytes a second both have it after 2 s); so do their reports.
    assert steps(Costs(), machines, [0.0] * 3, payload=10.0) == [pytest.approx(4.0)]
    assert steps(Costs(), Machines(1, 1, 1, link_bytes_s=10.0), [0.0], payload=10.0) == [pytest.approx(0.0)]


def test_groups_are_added_on_their_machines() -> None:
    # Two machines of 16 workers: a group each. Its sum is sent once, after 16 payloads have been added on the machine.
    size = 1e7
    costs = Costs(report_byte_s=1e-7, add_byte_s=1e-8)
    apart = steps(costs, Machines(32, 16, 64), [0.0] * 32, payload=size)
    assert apart == [pytest.approx(16 * 0.1 + 2 * 1.0)]
    assert steps(costs, Machines(32, 32, 64), [0.0] * 32, payload=size) == [pytest.approx(32 * 1.0)]
    # Small updates go to the driver one by one.
    assert steps(costs, Machines(32, 16, 64), [0.0] * 32, payload=1e3) == [pytest.approx(32 * 1e-4)]
    # The sum of the other machine passes the link; so did the snapshot.
    linked = steps(costs, Machines(32, 16, 64, link_bytes_s=1e7), [0.0] * 32, payload=size)
    assert linked == [pytest.approx(1.0 + 16 * 0.1 + 1.0 + 1.0)]


def test_a_straggler_is_backed_up() -> None:
    slow = Simulation(Costs(), Machines(4, 4, 8), 0.0, slowness=[8.0])
    assert [slow.step([1.0] * 8) for _ in range(4)] == [
        pytest.approx(3.0)
    ] * 4  # two shards each, and one more for the others
    alone = Simulation(Costs(), Machines(4, 4, 8), 0.0, slowness=[8.0], speculate=False)
    assert alone.step([1.0] * 8) >= 8.0


def led_steps(
    leaders: int, costs: Costs, machines: Machines, seconds: list[float], count: int = 1, payload: float = 0.0
) -> list[float]:
    simulation = LedSimulation(costs, replace(machines, leaders=leaders), payload)
    return [simulation.step(seconds) for _ in range(count)]


def test_all_costs_of_one_shard_under_a_leader() -> None:
    costs = Costs(begin_s=1.0, assign_s=2.0, report_s=3.0, outer_s=4.0, shard_s=5.0, ray_s=6.0, latency_s=7.0)
    (step_s,) = led_steps(1, costs, Machines(1, 1, 4), [10.0])
    driver, leader, worker = 1.0 + 2.0 + 3.0 + 4.0, 2.0 + 2.0 + 3.0 + 5.0, 10.0 + 5.0
    # Four messages, three of which Ray's processes bring: a call to a worker costs the asker alone.
    assert step_s == pytest.approx(driver + leader + worker + 3 * 6.0 + 4 * 7.0)


def test_leaders_take_reports_side_by_side() -> None:
    costs = Costs(report_s=0.01)
    flat = Simulation(costs, Machines(64, 8, 64), 0.0).step([0.0] * 64)
    assert flat == pytest.approx(0.64)
    # Of 16 each, which they take at the same time; then the driver takes four sums.
    assert led_steps(4, costs, Machines(64, 8, 64), [0.0] * 64) == [pytest.approx(0.16 + 0.04)]


def test_large_sums_of_leaders_are_added_before_the_driver_takes_them() -> None:
    costs, machines = Costs(report_byte_s=5e-9, add_byte_s=5e-10), Machines(32, 16, 64)
    # A leader on each machine takes 16 reports; one of them adds the two sums; the driver takes one.
    assert led_steps(2, costs, machines, [0.0] * 32, payload=2e6) == [pytest.approx(16 * 0.01 + 2 * 0.001 + 0.01)]
    # Small ones, and the last unit where it is not whole, the driver takes itself.
    assert led_steps(2, costs, machines, [0.0] * 32, payload=1e6) == [pytest.approx(16 * 0.005 + 2 * 0.005)]
    assert led_steps(2, costs, machines, [0.0] * 31, payload=2e6) == [pytest.approx(16 * 0.01 + 0.01)]


def test_a_large_snapshot_goes_from_machine_to_machine() -> None:
    machines = Machines(31 * 16, 16, 64, link_bytes_s=1e7)
    # The driver's link alone would need 30 seconds for the snapshot. Then 15 sums come to where a group is added.
    simulation = LedSimulation(Costs(), replace(machines, leaders=31), 1e7, speculate=False)
    step_s = simulation.step([0.0] * 31 * 16)
    assert 5.0 + 16.0 < step_s < 12.0 + 17.0


@pytest.mark.parametrize("workers", [64, 72, 100, 200])
def test_workers_that_compute_whole_units_are_kept_busy(workers: int) -> None:
    costs = Costs(assign_s=4e-4, report_s=4e-4, shard_s=1e-3, ray_s=4e-4, latency_s=1e-3)
    seconds = [0.19 + 0.02 * ((7 * index) % 11) / 10 for index in range(4 * workers)]
    for step_s in led_steps(-(-workers // 32), costs, Machines(workers, 8, 9), seconds, 4):
        assert 0.8 < step_s < 0.98  # four shards of 0.2 s each: a fifth round would end after a second


def test_the_same_run_takes_the_same_time() -> None:
    costs = Costs(begin_s=0.01, assign_s=0.001, report_s=0.002, shard_s=0.01, ray_s=0.001, latency_s=0.003)
    seconds = [0.1 + 0.01 * (index % 7) for index in range(60)]
    assert steps(costs, Machines(30, 8, 4), seconds, 3) == steps(costs, Machines(30, 8, 4), seconds, 3)


def test_users_of_a_resource_share_it_evenly() -> None:
    events, ended = EventQueue(), dict[str, float]()
    resource = SharedResource(events, 1.0)
    resource.use(2.0, lambda: ended.update(long=events.now))
    events.at(1.0, lambda: resource.use(0.25, lambda: ended.update(short=events.now)))
    while len(ended) < 2:
        events.advance()
    assert ended == {"short": pytest.approx(1.5), "long": pytest.approx(2.25)}
