"""A decoder of 100 million frozen weights, meta-trained by a worker whose two ranks have half of them each."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray import cloudpickle

from distmeta import methods
from distmeta.config import (
    AlgorithmConfig,
    EngineConfig,
    EvaluationConfig,
    OuterConfig,
    RunConfig,
    RuntimeConfig,
    TextTasks,
    TrackingConfig,
    TrainConfig,
)
from distmeta.config.load import change
from distmeta.config.models import TransformerConfig
from distmeta.config.petl import LoraConfig
from distmeta.core.seeding import mix
from distmeta.core.types import Shard, Snapshot, Work
from distmeta.data.store import write_store
from distmeta.program.program import MetaProgram, MetaRecipe
from distmeta.training import train

from ..packages import needs

pytestmark = [
    needs("deepspeed"),
    needs("transformers"),
    pytest.mark.xdist_group("ray"),
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

DECODER: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 14,
    "n_head": 12,
    "vocab_size": 64,
    "n_positions": 32,
    "bos_token_id": None,
    "eos_token_id": None,
}
MIB = 1 << 20


@dataclass(frozen=True)
class MeasuredRecipe:
    """The recipe of a run; each rank writes to the folder what it holds."""

    recipe: MetaRecipe
    folder: str

    def build(self) -> MeasuredProgram:
        return MeasuredProgram(self.recipe.build(), Path(self.folder))


@dataclass(frozen=True)
class MeasuredProgram:
    """A program that writes after each shard what this process holds, in bytes (`process`: not shared with others)."""

    program: MetaProgram
    folder: Path

    def prepare(self, work: Work, shard: Shard) -> None:
        self.program.prepare(work, shard)

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Any:
        value = self.program.run(work, snapshot, shard)
        from distmeta.core import ranks
        from distmeta.models.petl.frozen import shape_of
        from distmeta.models.petl.partition import resident_bytes

        backbone: Any = self.program.algorithm.learner.backbone
        found = {
            "whole": sum(4 * math.prod(shape_of(weight)) for weight in backbone.network.parameters()),
            "resident": resident_bytes(backbone.network),
            "process": psutil.Process().memory_full_info().uss,
        }
        (self.folder / f"rank{ranks.current.rank}.json").write_text(json.dumps(found))
        return value

    def timing(self) -> Mapping[str, float]:
        return self.program.timing()

    def close(self) -> None:
        self.program.close()


@pytest.fixture(autouse=True)
def _this_module_by_value(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers cannot import the tests."""
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.parametrize(
    "algorithm",
    [methods.reptile(steps=2, batch=2, eval_steps=2), methods.fomaml(lr=0.01, steps=2, eval_steps=2)],
    ids=["reptile", "fomaml"],
)
def test_two_ranks_train_a_decoder_of_which_each_holds_half(
    ray_cluster: None, here: Path, monkeypatch: pytest.MonkeyPatch, algorithm: AlgorithmConfig
) -> None:
    rows = [
        " ".join(f"w{mix(label, text, place) % 30 + label}" for place in range(8))
        for label in range(8)
        for text in range(8)
    ]
    write_store(
        here / "texts",
        rows,
        class_names=[f"class{label}" for label in range(8)],
        class_counts=[8] * 8,
        splits={"only": {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]}},
    )  # fmt: skip
    config = RunConfig(
        name="whole",
        tasks=TextTasks(
            store=str(here / "texts"), way=2, shots=2, queries=2, eval_queries=2, tokenizer="words:60", buckets=(12,)
        ),
        model=TransformerConfig(architecture=DECODER, petl=(LoraConfig(targets=("fused", "ffn_in")),)),
        algorithm=algorithm,
        outer=OuterConfig(lr=1e-3),
        engine=EngineConfig(strategy="loop"),
        train=TrainConfig(steps=3, tasks_per_step=4),
        runtime=RuntimeConfig(executor="local", workers=1, shard_size=4),
        evaluation=EvaluationConfig(every=0, tasks=2, final_tasks=2),
        tracking=TrackingConfig(kind="none"),
    )
    whole = train(config, quiet=True)
    of = MetaRecipe.of
    monkeypatch.setattr(
        "distmeta.training.run.MetaRecipe.of", staticmethod(lambda config: MeasuredRecipe(of(config), str(here)))
    )
    changes = ["name=parts", "runtime.executor=ray", "runtime.ranks=2", "runtime.partition={offload: cpu}"]
    parts = train(change(config, changes), quiet=True)
    assert parts.digest == whole.digest
    assert parts.scores == whole.scores
    for rank in range(2):
        found = json.loads((here / f"rank{rank}.json").read_text())
        print(
            f"rank {rank}: {found['resident'] / MIB:.0f} of {found['whole'] / MIB:.0f} MiB of the weights "
            f"({found['resident'] / found['whole']:.1%}), process {found['process'] / MIB:.0f} MiB"
        )
        assert found["whole"] > 4 * 99e6
        assert 0.5 <= found["resident"] / found["whole"] < 0.51
    print(f"training: {whole.train_s:.1f} s in one process, {parts.train_s:.1f} s on two ranks")
