"""The asynchronous server: staleness, weights, shard numbers."""

from __future__ import annotations

import math
import random
import threading

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.tensors import digest
from distmeta.core.types import Report, Update
from distmeta.server.asynchronous import AsynchronousServer
from distmeta.server.base import StepError, Verdict
from distmeta.server.synchronous import ParameterServer

SHAPES = {"weight": (5, 7), "scale": ()}


def make_server(**outer: object) -> AsynchronousServer:
    params = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return AsynchronousServer(params, OuterConfig(**{"optimizer": "SGD", "lr": 1.0, "staleness": 2, **outer}), 100)


def report_of(version: int, shard: int, value: float = 1.0, weight: float = 1.0) -> Report:
    grad = {name: torch.full(shape, value) for name, shape in SHAPES.items()}
    return Report(version, shard, Update(grad, weight, {"loss": value}))


def test_updates_of_recent_versions_are_accepted() -> None:
    server = make_server()
    for version in range(4):
        server.push(report_of(version, version))
        server.step(1)
    assert [server.push(report_of(version, 4 + version)).value for version in range(6)] == [
        "stale",
        "stale",
        "accepted",
        "accepted",
        "accepted",
        "stale",  # computed from a version that does not exist
    ]
    assert server.push(report_of(4, 4)) is Verdict.DUPLICATE  # a stale shard is finished


@pytest.mark.parametrize(("rule", "factors"), [("inverse", (1.0, 0.5, 1 / 3)), ("constant", (1.0, 1.0, 1.0))])
def test_a_step_uses_the_mean_weighted_by_staleness(rule: str, factors: tuple[float, ...]) -> None:
    server = make_server(staleness_weight=rule)
    for version in range(2):
        server.push(report_of(version, version, 0.0))
        server.step(1)
    values, weights = (3.0, 5.0, 7.0), (2.0, 1.0, 4.0)
    for age in range(3):
        server.push(report_of(2 - age, 2 + age, values[age], weights[age]))
    record = server.step(3)
    mean = sum(factor * value for factor, value in zip(factors, values, strict=True)) / sum(weights)
    assert record.weight == pytest.approx(sum(weights))
    assert record.metrics == {"loss": pytest.approx(sum(values) / sum(weights))}
    assert (record.outer["staleness_mean"], record.outer["staleness_max"]) == (1.0, 2.0)
    for tensor in server.pull().params.values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, -mean))


def test_updates_that_are_all_old_move_less() -> None:
    moved = []
    for age in (0, 2):
        server = make_server(staleness_weight="inverse")
        for version in range(2):
            server.push(report_of(version, version, 0.0))
            server.step(1)
        for shard in (2, 3):
            server.push(report_of(2 - age, shard, 6.0))
        server.step(2)
        moved.append(float(next(iter(server.pull().params.values())).flatten()[0]))
    assert moved[1] == pytest.approx(moved[0] / 3)


def test_without_staleness_it_equals_the_synchronous_server() -> None:
    params = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    synchronous = ParameterServer(params, OuterConfig(average=0.9), 10)
    asynchronous = AsynchronousServer(params, OuterConfig(average=0.9, staleness=0), 10)
    for version in range(3):
        for shard in range(5):
            value = 10.0 ** (shard - 2) / 3
            synchronous.push(report_of(version, shard, value))
            asynchronous.push(report_of(version, 5 * version + shard, value))
        assert synchronous.step(5).metrics == asynchronous.step(5).metrics
    assert digest(synchronous.averaged()) == digest(asynchronous.averaged())


def test_a_step_uses_all_updates_since_the_last_one() -> None:
    server = make_server()
    assert not server.ready(1)
    with pytest.raises(StepError, match="it has no updates"):
        server.step(0)
    for shard in range(3):
        server.push(report_of(0, shard))
    assert server.ready(3)
    assert not server.ready(4)
    with pytest.raises(StepError, match="it has 3 updates, fewer than 4"):
        server.step(4)
    assert server.step(2).weight == 3.0
    assert not server.ready(1)


def test_a_shard_with_a_nonfinite_report_may_be_reported_again() -> None:
    server = make_server()
    assert server.push(report_of(0, 0, math.nan)) is Verdict.NONFINITE
    assert server.push(report_of(0, 0, 1.0)) is Verdict.ACCEPTED
    assert server.push(report_of(0, 0, 1.0)) is Verdict.DUPLICATE
    server.drop(1)
    assert server.push(report_of(0, 1)) is Verdict.DUPLICATE
    assert server.step(1).weight == 1.0


def test_updates_are_not_changed() -> None:
    server = make_server()
    reports = [report_of(0, shard, shard + 1.0) for shard in range(4)]
    for report in reports:
        server.push(report)
    server.step(4)
    server.push(report_of(0, 4, 9.0))
    server.push(report_of(1, 5, 9.0))
    server.step(2)
    assert [report.update.grad["scale"].item() for report in reports] == [1.0, 2.0, 3.0, 4.0]


def test_shard_numbers_restart_after_loading_a_state() -> None:
    server = make_server()
    server.push(report_of(0, 0))
    server.step(1)
    state = server.state_dict()
    server.push(report_of(1, 1))
    server.load_state_dict(state)
    assert not server.ready(1)
    assert server.version == 1
    assert server.push(report_of(1, 0)) is Verdict.ACCEPTED


def test_every_shard_is_counted_once_with_concurrent_pushes() -> None:
    server, rng = make_server(staleness=10_000, staleness_weight="constant"), random.Random(0)
    numbers = [number for number in range(400) for _ in range(2)]
    rng.shuffle(numbers)
    weights: list[float] = []

    def push(part: list[int]) -> None:
        for number in part:
            server.push(report_of(0, number))

    def step() -> None:
        while sum(weights) < 400:
            if server.ready(7) or not any(thread.is_alive() for thread in threads):
                weights.append(server.step(1).weight)

    threads = [threading.Thread(target=push, args=(numbers[start::4],)) for start in range(4)]
    stepper = threading.Thread(target=step)
    for thread in (*threads, stepper):
        thread.start()
    for thread in (*threads, stepper):
        thread.join(timeout=60)
    assert sum(weights) == 400
    assert server.version == len(weights)


def test_a_configuration_without_staleness_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs outer\.staleness"):
        make_server(staleness=None)
