"""Evaluation on workers, and its result."""

from __future__ import annotations

import numpy as np
import torch

from distmeta.config import EngineConfig
from distmeta.core.types import Shard, Snapshot, TaskSpec, Work
from distmeta.program.scoring import Score, ShardScores
from distmeta.training.evaluate import EvaluationResult, evaluate_shards

from ...fakes_training import Call, FakeExecutor

SCORES = (
    Score("transductive", "loss", (0, 2), (1.5, 0.5), (0.25, 0.125), 600),
    Score("transductive", "accuracy", (0, 2), (0.2, 0.9), (0.01, 0.02), 600),
    Score("inductive", "accuracy", (0, 2), (0.2, 0.8), (0.01, 0.03), 600),
)
RESULT = EvaluationResult("runs/a/step-00000003", 3, "test", "transductive", SCORES)


def test_the_summary_does_not_depend_on_the_order_of_results() -> None:
    def uneven(call: Call) -> ShardScores:
        values = np.full((len(call.shard.specs), 1), 10.0 ** (call.shard.index - 2) / 3)
        return ShardScores({"inductive": (0,)}, {"inductive": {"loss": values}})

    shards = [Shard(index, tuple(TaskSpec(i, i, "val") for i in range(index + 1))) for index in range(5)]
    snapshot, engine = Snapshot(4, {"a": torch.ones(2)}), EngineConfig(strategy="loop")
    executors = [FakeExecutor(uneven, 3, reverse=reverse) for reverse in (False, True)]
    forward, backward = (evaluate_shards(executor, engine, snapshot, shards) for executor in executors)
    assert forward == backward
    assert [(score.protocol, score.metric, score.tasks) for score in forward] == [("inductive", "loss", 15)]
    assert {(call.work, call.snapshot.version) for call in executors[0].calls} == {(Work("evaluate", engine), 4)}


def test_the_headline_of_a_result_is_accuracy_under_its_protocol() -> None:
    content = RESULT.to_json()
    assert (content["checkpoint"], content["step"], content["split"]) == ("runs/a/step-00000003", 3, "test")
    assert content["result"] == SCORES[1].to_json()
    assert content["scores"] == [score.to_json() for score in SCORES]


def test_a_table_has_a_row_for_each_score_and_point() -> None:
    rows = RESULT.rows()
    assert [(row["protocol"], row["metric"], row["inner steps"]) for row in rows] == [
        (score.protocol, score.metric, str(point)) for score in SCORES for point in score.points
    ]
    assert (rows[3]["mean"], rows[3]["95% interval"]) == ("0.9000", "± 0.0200")
