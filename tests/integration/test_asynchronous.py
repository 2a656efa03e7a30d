"""The asynchronous mode: nobody waits, and training still comes to something."""

from __future__ import annotations

from pathlib import Path

import pytest

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.config.load import load_config
from distmeta.core.errors import UserError
from distmeta.training import train

JOB = Path(__file__).parents[2] / "jobs" / "sinusoid.py:maml"


def config(folder: Path, *changes: str) -> RunConfig:
    return load_config(
        str(JOB),
        [
            "algorithm.estimator.order=1",
            "engine.strategy=vmap",
            "train.steps=120",
            "train.tasks_per_step=8",
            "runtime.shard_size=4",
            "outer.staleness=2",
            "outer.lr=0.003",
            "evaluation.every=60",
            "evaluation.tasks=40",
            "evaluation.final_tasks=0",
            "checkpoint.every=60",
            "checkpoint.keep_last=5",
            "tracking.kind=none",
            f"checkpoint.path={folder}",
            *changes,
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_run_learns(tmp_path: Path, executor: str) -> None:
    result = train(config(tmp_path, f"runtime.executor={executor}"), quiet=True)
    assert result.steps == 120
    before, after = (evaluation.scores[0].mean[-1] for evaluation in result.evaluations[:: len(result.evaluations) - 1])
    assert after < before


@pytest.mark.slow
def test_with_one_worker_nothing_is_stale_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = train(config(tmp_path, "runtime.executor=local", "name=whole"), quiet=True)
    train(config(tmp_path, "runtime.executor=local", "name=cut"), quiet=True)
    for summary in checkpoints.summaries(f"{tmp_path}/cut"):
        if summary.step > 60:
            (Path(summary.path) / "state.json").unlink()
    resumed = train(config(tmp_path, "runtime.executor=local", "name=cut"), resume=True, quiet=True)
    assert resumed.digest == whole.digest
    assert "stale" not in whole.counts


def test_exact_second_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"outer\.staleness mixes gradients of several versions"):
        config(tmp_path, "algorithm.estimator.order=2")
