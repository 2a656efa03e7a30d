"""Reports that wait for their group."""

from __future__ import annotations

from distmeta.runtime.messages import ResultWire
from distmeta.runtime.ray.groups import PendingReport, ReportGroups
from distmeta.server.tree import FAN_IN


def make_report(shard: int, node_id: str = "a") -> PendingReport:
    return PendingReport(ResultWire(shard, None, 0, 0.0, 0.0), f"grad {shard}", node_id)


def shards_of(reports: list[PendingReport]) -> list[int]:
    return [report.result.shard for report in reports]


def test_a_group_is_complete_with_its_last_report_in_any_order() -> None:
    groups = ReportGroups.of(range(FAN_IN + 3))
    order = [FAN_IN + 2, FAN_IN, FAN_IN + 1]
    assert [groups.add(shard, make_report(shard)) for shard in order] == [False, False, True]
    assert shards_of(groups.reports(1)) == [FAN_IN, FAN_IN + 1, FAN_IN + 2]
    assert groups.reports(0) == []


def test_a_group_of_one_shard_is_reported_by_itself() -> None:
    groups = ReportGroups.of(range(FAN_IN + 1))
    assert groups.is_single(FAN_IN)
    assert not groups.is_single(0)


def test_a_dissolved_group_gives_back_what_waited_and_stays_dissolved() -> None:
    groups = ReportGroups.of(range(3))
    groups.add(2, make_report(2))
    groups.add(0, make_report(0))
    assert shards_of(groups.dissolve(1)) == [0, 2]
    assert groups.is_single(1)
    assert groups.reports(0) == []


def test_a_report_that_is_computed_again_replaces_the_one_before() -> None:
    groups = ReportGroups.of(range(2))
    assert not groups.add(0, make_report(0, "a"))
    assert not groups.add(0, make_report(0, "b"))
    assert [report.node_id for report in groups.reports(0)] == ["b"]


def test_a_popped_group_is_no_longer_being_summed() -> None:
    groups = ReportGroups.of(range(2))
    for shard in range(2):
        groups.add(shard, make_report(shard))
    groups.summed_by[0] = 7
    assert groups.being_summed_by(7) == [0]
    assert groups.being_summed_by(0) == []
    assert shards_of(groups.pop(0)) == [0, 1]
    assert groups.being_summed_by(7) == []


def test_nodes_are_told_with_their_gradients() -> None:
    groups = ReportGroups.of(range(5))
    for shard, node_id in enumerate("bab"):
        groups.add(shard, make_report(shard, node_id))
    assert groups.nodes(0) == {"a": 1, "b": 2}
