"""The server in parts against the server in one piece."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.core.types import Params, Report, Update
from distmeta.server.base import StepError, Verdict
from distmeta.server.outer import State, optimizers
from distmeta.server.sharded import ShardedServer, partition
from distmeta.server.synchronous import ParameterServer
from distmeta.server.tree import FAN_IN, sum_group

SHAPES = {"head.weight": (64, 9), "body.weight": (5, 7), "body.bias": (7,), "scale": (), "norm": (33,), "empty": (0,)}

Make = Callable[..., ShardedServer]


def make_params() -> Params:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def make_whole(**outer: object) -> ParameterServer:
    return ParameterServer(make_params(), OuterConfig(**outer), 20)


@pytest.fixture
def make_sharded() -> Iterator[Make]:
    made: list[ShardedServer] = []

    def make(parts: int = 3, **outer: object) -> ShardedServer:
        made.append(ShardedServer(make_params(), OuterConfig(**outer), 20, parts=parts))
        return made[-1]

    yield make
    for server in made:
        server.close()


def report_of(version: int, shard: int, *, names: tuple[str, ...] = tuple(SHAPES)) -> Report:
    generator = torch.Generator().manual_seed(1009 * version + shard)
    size = 10.0 ** (shard % 5 - 2)
    grad = {name: size * torch.randn(SHAPES[name], generator=generator) for name in names}
    return Report(version, shard, Update(grad, 0.1 * (shard + 1), {"loss": 0.1 * (shard + 1) * size}))


def assert_same_state(found: State, expected: State) -> None:
    assert list(found) == list(expected)
    for entry, value in expected.items():
        other = found[entry]
        if isinstance(value, torch.Tensor):
            assert isinstance(other, torch.Tensor)
            assert digest({"": other}) == digest({"": value})
        else:
            assert other == value


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 50])
@pytest.mark.parametrize(
    "outer",
    [
        {"optimizer": "Adam", "clip_norm": 0.5, "average": 0.9, "schedule": "cosine", "warmup_steps": 2},
        {"optimizer": "SGD", "lr": 0.1, "options": {"momentum": 0.9, "nesterov": True}, "clip_norm": 1e-3},
        {"optimizer": "AdamW", "options": {"weight_decay": 0.1}, "average": 0.5},
    ],
    ids=lambda outer: outer["optimizer"],
)
def test_parts_give_the_bits_of_the_whole(make_sharded: Make, parts: int, outer: dict[str, object]) -> None:
    whole, sharded = make_whole(**outer), make_sharded(parts, **outer)
    chance = random.Random(parts)
    for version in range(5):
        count = chance.randint(1, 20)
        reports = [report_of(version, shard) for shard in range(count)]
        for report in reports:
            whole.push(report)
        for report in chance.sample(reports, count):
            assert sharded.push(report) is Verdict.ACCEPTED
        assert whole.step(count) == sharded.step(count)
    assert whole.version == sharded.version == 5
    assert digest(whole.pull().params) == digest(sharded.pull().params)
    assert digest(whole.averaged()) == digest(sharded.averaged())
    assert list(sharded.pull().params) == list(whole.pull().params)
    assert_same_state(sharded.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", sorted(set(optimizers()) - {"Muon"}))  # Muon takes matrices only
def test_every_optimizer_works_in_parts(make_sharded: Make, name: str) -> None:
    whole, sharded = make_whole(optimizer=name, clip_norm=0.1), make_sharded(optimizer=name, clip_norm=0.1)
    names = tuple(set(SHAPES) - {"empty"})  # Adafactor divides by the number of entries
    for version in range(3):
        for server in (whole, sharded):
            server.push(report_of(version, 0, names=names))
            server.step(1)
    assert_same_state(sharded.state_dict(), whole.state_dict())


def test_each_goes_on_from_the_others_state(make_sharded: Make) -> None:
    outer = {"optimizer": "Adam", "clip_norm": 0.5, "average": 0.9, "schedule": "linear"}
    plain = make_whole(**outer)
    servers = [make_whole(**outer), make_sharded(3, **outer), make_whole(**outer), make_sharded(2, **outer)]
    for version in range(8):
        current = servers[version % 4]
        if version:
            current.load_state_dict(servers[(version - 1) % 4].state_dict())
        for server in (plain, current):
            for shard in range(3):
                server.push(report_of(version, shard))
            server.step(3)
    assert_same_state(servers[3].state_dict(), plain.state_dict())


def test_groups_and_dropped_shards(make_sharded: Make) -> None:
    whole, sharded = make_whole(clip_norm=0.1), make_sharded(clip_norm=0.1)
    updates = [report_of(0, shard).update for shard in range(FAN_IN)]
    for server in (whole, sharded):
        assert server.push_sum(0, 0, FAN_IN, sum_group(updates)) is Verdict.ACCEPTED
        assert server.push_sum(0, 0, 3, sum_group(updates)) is Verdict.DUPLICATE
        server.drop(FAN_IN)
        server.drop(FAN_IN)
        assert server.push(report_of(0, FAN_IN + 1)) is Verdict.ACCEPTED
    record = sharded.step(FAN_IN + 2)
    assert record == whole.step(FAN_IN + 2)
    assert record.outer["dropped"] == 1.0
    assert digest(whole.pull().params) == digest(sharded.pull().params)
    with pytest.raises(ValueError, match="no group"):
        sharded.push_sum(1, 3, 2, sum_group(updates))


def test_verdicts_are_of_whole_reports(make_sharded: Make) -> None:
    server = make_sharded()
    bad = report_of(0, 0)
    bad.update.grad["norm"][3] = math.nan
    assert server.push(bad) is Verdict.NONFINITE  # though most parts' tensors are finite
    assert server.push(report_of(1, 0)) is Verdict.STALE
    assert server.push(report_of(0, 0)) is Verdict.ACCEPTED
    assert server.push(report_of(0, 0)) is Verdict.DUPLICATE
    with pytest.raises(ValueError, match="shard 1: gradient 'nothing'"):
        server.push(Report(0, 1, Update({"nothing": torch.zeros(1)}, 1.0)))
    with pytest.raises(ValueError, match="shard 0 has been accepted"):
        server.drop(0)
    assert server.step(1).version == 1


def test_parameters_that_no_shard_names_stay(make_sharded: Make) -> None:
    whole, sharded = make_whole(optimizer="AdamW"), make_sharded(6, optimizer="AdamW")
    for server in (whole, sharded):
        server.push(report_of(0, 0, names=("scale",)))
        server.push(report_of(0, 1, names=("norm", "scale")))
        server.step(2)
    assert_same_state(sharded.state_dict(), whole.state_dict())
    assert torch.equal(sharded.pull().params["head.weight"], make_params()["head.weight"])


def test_a_step_that_cannot_be_changes_no_part(make_sharded: Make) -> None:
    server = make_sharded()
    before = digest(server.pull().params)
    with pytest.raises(StepError, match=r"missing shards \[0\]"):
        server.step(1)
    for shard in range(2):
        grad = {name: torch.ones(shape) for name, shape in SHAPES.items()}
        grad["scale"] = torch.tensor(3e38)  # in one part only
        server.push(Report(0, shard, Update(grad, 1.0)))
    with pytest.raises(StepError, match="overflows"):
        server.step(2)
    assert (server.version, digest(server.pull().params)) == (0, before)


def test_a_state_that_does_not_fit_changes_no_part(make_sharded: Make) -> None:
    server = make_sharded()
    server.push(report_of(0, 0))
    server.step(1)
    before = server.state_dict()
    for change in (
        {"params/more": torch.zeros(3)},
        {"params/scale": torch.zeros(3)},
        {"optimizer/more/step": torch.zeros(())},
        {"optimizer": "SGD"},
    ):
        with pytest.raises(UserError):
            server.load_state_dict({**before, **change})
    assert_same_state(server.state_dict(), before)


def test_a_loaded_state_drops_pending_updates(make_sharded: Make) -> None:
    server = make_sharded()
    state = server.state_dict()
    server.push(report_of(0, 0))
    server.drop(1)
    server.load_state_dict(state)
    assert server.push(report_of(0, 1)) is Verdict.ACCEPTED
    assert server.push(report_of(0, 0)) is Verdict.ACCEPTED
    assert server.step(2).version == 1


def test_reports_from_many_threads(make_sharded: Make) -> None:
    whole, sharded = make_whole(), make_sharded()
    reports = [report_of(0, shard) for shard in range(30)]
    verdicts: list[Verdict] = []

    def work(part: list[Report]) -> None:
        verdicts.extend(sharded.push(report) for report in part)

    twice = random.Random(0).sample(reports * 2, 60)
    threads = [threading.Thread(target=work, args=(twice[start::5],)) for start in range(5)]
    for thread in threads:
        thread.start()
    for report in reports:
        whole.push(report)
    for thread in threads:
        thread.join(timeout=60)
    assert verdicts.count(Verdict.ACCEPTED) == verdicts.count(Verdict.DUPLICATE) == 30
    assert whole.step(30) == sharded.step(30)
    assert digest(whole.pull().params) == digest(sharded.pull().params)


class LostPart(ParameterServer):
    """A part whose process is gone when an update comes."""

    def push(self, report: Report) -> Verdict:
        raise ConnectionError("the part's process ended")


class DeafPart(ParameterServer):
    """A part that has its own idea of the version."""

    def push(self, report: Report) -> Verdict:
        return Verdict.STALE


@pytest.mark.parametrize(
    ("kind", "error", "message"), [(LostPart, ConnectionError, "process ended"), (DeafPart, StepError, "stale")]
)
def test_what_goes_wrong_in_a_part_is_raised(kind: type[ParameterServer], error: type[Exception], message: str) -> None:
    kinds = iter([ParameterServer, kind])
    server = ShardedServer(make_params(), OuterConfig(), 20, parts=2, make_part=lambda *args: next(kinds)(*args))
    server.push(report_of(0, 0))
    with pytest.raises(error, match=message):
        server.step(1)
    server.close()
    server.close()


def test_a_partition_is_balanced_and_complete() -> None:
    params = {f"w{place}": torch.zeros(size) for place, size in enumerate((100, 1000, 300, 300, 400, 7, 0, 0))}
    parts = partition(params, 2)
    assert sorted(name for part in parts for name in part) == sorted(params)
    sizes = [sum(params[name].nbytes for name in part) for part in parts]
    assert max(sizes) - min(sizes) <= 4 * 100
    shuffled = {name: params[name] for name in sorted(params, reverse=True)}
    assert [sorted(part) for part in partition(shuffled, 2)] == [sorted(part) for part in parts]
    assert partition(params, 3) == partition(params, 3)


def test_a_partition_has_no_empty_part() -> None:
    params = {"a": torch.zeros(1000), "b": torch.zeros(1), "c": torch.zeros(0)}
    assert partition(params, 2) == (("a",), ("b", "c"))
    assert sorted(partition(params, 9)) == [("a",), ("b",), ("c",)]
    assert partition(params, 1) == (("a", "b", "c"),)
