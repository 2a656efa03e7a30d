"""The synchronous parameter server, with threads as workers."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import replace

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.tensors import cloned, digest
from distmeta.core.types import Params, Report, Update
from distmeta.server import ParameterServer, StepError, Verdict
from distmeta.server.tree import FAN_IN, sum_group

SHAPES = {"body.weight": (5, 7), "body.bias": (7,), "scale": ()}


def make_params() -> Params:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def make_server(**outer: object) -> ParameterServer:
    return ParameterServer(make_params(), OuterConfig(**outer), 100)


def report_of(version: int, shard: int, *, seed: int = 0) -> Report:
    """Magnitudes differ widely between shards, so that another order of additions gives other bits."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + 1009 * version + shard)
    size = 10.0 ** (shard % 5 - 2)
    grad = {name: size * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return Report(version, shard, Update(grad, 0.1 * (shard + 1), {"loss": 0.1 * (shard + 1) * size}))


def push_from_threads(server: ParameterServer, reports: list[Report], rng: random.Random) -> list[Verdict]:
    """Push all reports from several threads, in random order; returns the verdicts."""
    order = rng.sample(reports, len(reports))
    num_threads = rng.randint(1, 6)
    verdicts: list[Verdict] = []

    def work(part: list[Report]) -> None:
        for report in part:
            verdicts.append(server.push(report))

    threads = [threading.Thread(target=work, args=(order[start::num_threads],)) for start in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return verdicts


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_arrival_gives_the_same_bits(seed: int) -> None:
    rng = random.Random(seed)
    num_shards = rng.randint(1, 12)
    config = {"optimizer": rng.choice(["Adam", "SGD"]), "average": rng.choice([0.0, 0.99])}
    ordered, shuffled = make_server(**config), make_server(**config)
    for version in range(4):
        reports = [report_of(version, shard, seed=seed) for shard in range(num_shards)]
        for report in reports:
            assert ordered.push(report) is Verdict.ACCEPTED
        again = rng.sample(reports, rng.randint(0, num_shards))
        late = [report_of(version - 1, shard, seed=seed) for shard in range(rng.randint(0, 3))]
        verdicts = push_from_threads(shuffled, reports + again + late, rng)
        assert verdicts.count(Verdict.ACCEPTED) == num_shards
        assert verdicts.count(Verdict.DUPLICATE) == len(again)
        assert verdicts.count(Verdict.STALE) == len(late)
        assert ordered.step(num_shards) == shuffled.step(num_shards)
    assert digest(ordered.pull().params) == digest(shuffled.pull().params)
    assert digest(ordered.averaged()) == digest(shuffled.averaged())


def test_another_order_of_additions_gives_other_bits() -> None:
    """Otherwise the test above would prove nothing."""
    updates = [report_of(0, shard).update for shard in range(6)]
    assert digest(sum_group(updates).grad) != digest(sum_group(updates[::-1]).grad)


def test_a_step_divides_by_the_weight() -> None:
    server = make_server(optimizer="SGD", lr=1.0)
    before = server.pull().params
    for shard, weight in enumerate((1.0, 3.0)):
        grad = {name: torch.full(shape, float(shard + 1)) for name, shape in SHAPES.items()}
        server.push(Report(0, shard, Update(grad, weight, {"loss": 2.0 * weight, "hits": weight * shard})))
    record = server.step(2)
    assert (record.version, record.weight) == (1, 4.0)
    assert record.metrics == {"loss": 2.0, "hits": 0.75}
    assert record.outer["lr"] == 1.0
    after = server.pull()
    assert after.version == server.version == 1
    for name in SHAPES:
        torch.testing.assert_close(before[name] - after.params[name], torch.full(SHAPES[name], 0.75))


def test_verdicts() -> None:
    server = make_server()
    assert server.push(report_of(0, 0)) is Verdict.ACCEPTED
    assert server.push(report_of(0, 0)) is Verdict.DUPLICATE
    assert server.push(report_of(1, 1)) is Verdict.STALE
    server.step(1)
    assert server.push(report_of(0, 0)) is Verdict.STALE
    assert server.push(report_of(1, 0)) is Verdict.ACCEPTED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["grad", "weight"])
def test_nonfinite_reports_are_not_accepted(value: float, place: str) -> None:
    server = make_server()
    good = report_of(0, 0)
    grad = cloned(good.update.grad)
    if place == "grad":
        grad["body.weight"][3, 2] = value
    bad = Update(grad, value if place == "weight" else 1.0)
    assert server.push(Report(0, 0, bad)) is Verdict.NONFINITE
    with pytest.raises(StepError, match=r"missing shards \[0\]"):
        server.step(1)
    assert server.push(good) is Verdict.ACCEPTED
    assert server.step(1).version == 1


@pytest.mark.parametrize(
    ("shards", "num_shards", "message"),
    [
        ([], 1, r"version 0 cannot step with 0 updates for 1 shards: missing shards \[0\]"),
        ([], 0, "with 0 updates for 0 shards"),
        ([0, 2], 4, r"missing shards \[1, 3\], unexpected shards \[\]"),
        ([0, 5], 1, r"unexpected shards \[5\]"),
    ],
)
def test_steps_need_exactly_their_shards(shards: list[int], num_shards: int, message: str) -> None:
    server = make_server()
    before = digest(server.pull().params)
    for shard in shards:
        server.push(report_of(0, shard))
    with pytest.raises(StepError, match=message):
        server.step(num_shards)
    assert server.version == 0
    assert digest(server.pull().params) == before


def test_a_step_with_zero_weight_is_refused() -> None:
    server = make_server()
    server.push(Report(0, 0, Update(report_of(0, 0).update.grad, 0.0)))
    with pytest.raises(StepError, match="the weights sum to 0"):
        server.step(1)


def test_a_sum_that_overflows_is_refused() -> None:
    server = make_server()
    for shard in range(2):
        server.push(Report(0, shard, Update({"scale": torch.tensor(3e38)}, 1.0)))
    with pytest.raises(StepError, match="overflows"):
        server.step(2)
    assert server.version == 0


@pytest.mark.parametrize(
    "grad", [{"nothing": torch.zeros(3)}, {"scale": torch.zeros(3)}, {"scale": torch.zeros((), dtype=torch.float64)}]
)
def test_gradients_that_do_not_fit_the_parameters_are_refused(grad: Params) -> None:
    with pytest.raises(ValueError, match="shard 0: gradient"):
        make_server().push(Report(0, 0, Update(grad, 1.0)))


def test_parameters_without_a_gradient_do_not_change() -> None:
    server = make_server(optimizer="AdamW")
    before = server.pull().params
    server.push(Report(0, 0, Update({"scale": torch.tensor(1.0)}, 1.0)))
    server.push(Report(0, 1, Update({"scale": torch.tensor(1.0), "body.bias": torch.ones(7)}, 1.0)))
    server.step(2)
    after = server.pull().params
    assert torch.equal(before["body.weight"], after["body.weight"])
    assert not torch.equal(before["body.bias"], after["body.bias"])


def test_pull_and_averaged_return_copies() -> None:
    server = make_server()
    before = digest(server.pull().params)
    for params in (server.pull().params, server.averaged()):
        for tensor in params.values():
            tensor.add_(1.0)
    assert digest(server.pull().params) == before


def test_averaging_does_not_change_the_parameters() -> None:
    plain, averaging = make_server(), make_server(average=0.9)
    for server in (plain, averaging):
        server.push(report_of(0, 0))
        server.step(1)
    assert digest(plain.averaged()) == digest(plain.pull().params) == digest(averaging.pull().params)
    assert digest(averaging.averaged()) != digest(averaging.pull().params)


def test_a_loaded_state_drops_pending_updates() -> None:
    server = make_server()
    state = server.state_dict()
    server.push(report_of(0, 0))
    server.load_state_dict(state)
    assert server.push(report_of(0, 0)) is Verdict.ACCEPTED


def test_the_workers_own_finiteness_check_is_trusted() -> None:
    server = make_server()
    assert server.push(replace(report_of(0, 0), finite=False)) is Verdict.NONFINITE
    assert server.push(replace(report_of(0, 0), finite=True)) is Verdict.ACCEPTED
    bad = Report(0, 1, Update({"scale": torch.tensor(math.nan)}, 1.0), finite=True)
    assert server.push(bad) is Verdict.ACCEPTED
    with pytest.raises(StepError, match="overflows"):
        server.step(2)


@pytest.mark.parametrize("num_shards", [5, 40])
def test_groups_summed_by_workers_give_the_same_bits(num_shards: int) -> None:
    single, grouped = make_server(), make_server()
    for version in range(3):
        reports = [report_of(version, shard) for shard in range(num_shards)]
        for report in reports:
            single.push(report)
        for first in reversed(range(0, num_shards, FAN_IN)):
            part = [report.update for report in reports[first : first + FAN_IN]]
            assert grouped.push(Report(version, first, sum_group(part), count=len(part))) is Verdict.ACCEPTED
        assert single.step(num_shards) == grouped.step(num_shards)
    assert digest(single.pull().params) == digest(grouped.pull().params)


def test_verdicts_on_groups() -> None:
    server = make_server()
    total = sum_group([report_of(0, shard).update for shard in range(3)])
    assert server.push(Report(1, 0, total, count=3)) is Verdict.STALE
    assert server.push(Report(0, 0, Update(total.grad, math.inf), count=3)) is Verdict.NONFINITE
    assert server.push(Report(0, 0, total, finite=False, count=3)) is Verdict.NONFINITE
    assert server.push(report_of(0, 2)) is Verdict.ACCEPTED
    assert server.push(Report(0, 0, total, count=3)) is Verdict.DUPLICATE
    assert server.push(Report(0, 0, total, count=2)) is Verdict.ACCEPTED
    assert server.push(report_of(0, 1)) is Verdict.DUPLICATE
    with pytest.raises(ValueError, match="no group"):
        server.push(Report(0, 20, total, count=3))
    with pytest.raises(ValueError, match="shard 16: gradient 'nothing'"):
        server.push(Report(0, 16, Update({"nothing": torch.zeros(1)}, 1.0), count=2))
    assert server.step(3).version == 1


def test_a_step_leaves_dropped_shards_out() -> None:
    server = make_server(optimizer="SGD", lr=1.0)
    before = server.pull().params
    ones = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    server.push(Report(0, 0, Update(ones, 2.0, {"loss": 1.0})))
    server.drop(1)
    server.drop(1)
    assert server.push(report_of(0, 1)) is Verdict.DUPLICATE
    with pytest.raises(ValueError, match="shard 0 has been accepted"):
        server.drop(0)
    record = server.step(2)
    assert (record.weight, record.metrics, record.outer["dropped"]) == (2.0, {"loss": 0.5}, 1.0)
    after = server.pull().params
    for name in SHAPES:
        torch.testing.assert_close(before[name] - after[name], torch.full(SHAPES[name], 0.5))
    server.push(report_of(1, 0))
    assert "dropped" not in server.step(1).outer


def test_a_step_needs_a_shard_that_is_not_dropped() -> None:
    server = make_server()
    server.drop(0)
    server.drop(1)
    with pytest.raises(StepError, match="all its 2 shards have been dropped"):
        server.step(2)
    assert server.version == 0
