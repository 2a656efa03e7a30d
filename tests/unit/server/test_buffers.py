"""Running statistics on the server: averaged over tasks whatever the order and grouping, and kept through a restart."""

from __future__ import annotations

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Report, Update
from distmeta.server import ParameterServer
from distmeta.server.tree import FAN_IN, sum_group

SHARDS = FAN_IN + 3


def update(shard: int) -> Update:
    rng = torch.Generator().manual_seed(shard)
    grad, mean = torch.randn(3, generator=rng), torch.randn(2, generator=rng)
    return Update({"weight": grad}, 1.0 + shard % 2, {"loss": 1.0}, {"norm.mean": mean})


def server() -> ParameterServer:
    config = OuterConfig(optimizer="SGD", lr=0.5)
    return ParameterServer({"weight": torch.zeros(3)}, config, 9, {"norm.mean": torch.ones(2)})


def test_statistics_are_the_mean_over_tasks_to_the_same_bits_in_any_order_and_grouping() -> None:
    first, second, third = server(), server(), server()
    for shard in range(SHARDS):
        first.push(Report(0, shard, update(shard)))
    for shard in reversed(range(SHARDS)):
        second.push(Report(0, shard, update(shard)))
    third.push(Report(0, 0, sum_group(map(update, range(FAN_IN))), count=FAN_IN))
    for shard in range(FAN_IN, SHARDS):
        third.push(Report(0, shard, update(shard)))
    for each in (first, second, third):
        each.step(SHARDS)
        assert torch.equal(each.buffers()["norm.mean"], first.buffers()["norm.mean"])
        assert torch.equal(each.pull().buffers["norm.mean"], first.buffers()["norm.mean"])
    weight = sum(update(shard).weight for shard in range(SHARDS))
    expected = sum(update(shard).buffers["norm.mean"] for shard in range(SHARDS)) / weight
    torch.testing.assert_close(first.buffers()["norm.mean"], expected)


def test_statistics_are_part_of_the_state() -> None:
    before, after = server(), server()
    before.push(Report(0, 0, update(0)))
    before.step(1)
    state = before.state_dict()
    assert "buffers/norm.mean" in state
    after.load_state_dict(state)
    assert torch.equal(after.buffers()["norm.mean"], before.buffers()["norm.mean"])
    with pytest.raises(UserError, match=r"in buffers/, \['norm\.mean'\] are missing"):
        after.load_state_dict({name: value for name, value in state.items() if not name.startswith("buffers/")})


def test_a_report_with_other_statistics_is_an_error() -> None:
    for buffers in ({"other": torch.zeros(2)}, {"norm.mean": torch.zeros(3)}):
        with pytest.raises(ValueError, match="shard 0: buffer"):
            server().push(Report(0, 0, Update({"weight": torch.zeros(3)}, 1.0, {}, buffers)))


def test_a_step_without_statistics_leaves_them() -> None:
    one = server()
    one.push(Report(0, 0, Update({"weight": torch.ones(3)}, 1.0)))
    one.step(1)
    assert one.buffers()["norm.mean"].tolist() == [1.0, 1.0]
