"""Learners that read the names of classes: a run, a checkpoint without its data, labels in Python and in tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import distmeta
from distmeta import cli
from distmeta.config import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.types import LABELS, Batch
from distmeta.methods import label_words
from distmeta.models.petl.tokens import load_tokenizer
from distmeta.tasks.labels import label_ids
from distmeta.training import train
from distmeta.training.result import TrainResult

from ...decoders import INTENTS, TEMPLATE, texts_in, transformer

pytest.importorskip("transformers", reason="decoders are those of transformers")
SUPPORT = [text for texts in INTENTS.values() for text in texts[:2]]
NAMES = [name for name, texts in INTENTS.items() for _ in texts[:2]]
QUERIES = ["I paid a late fee", "book a room"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A run of two steps, evaluated on unseen classes; its data is gone, the tokenizer is not."""
    folder = tmp_path_factory.mktemp("words")
    config = RunConfig.model_validate(
        {
            "name": "words",
            "tasks": texts_in(folder),
            "model": transformer(),
            "algorithm": label_words(lr=0.05, steps=1, scale=0.2),
            "engine": {"dtype": "float64"},
            "train": {"steps": 2, "tasks_per_step": 2},
            "runtime": {"executor": "local", "shard_size": 2},
            "evaluation": {"every": 0, "final_tasks": 6},
            "tracking": {"kind": "none", "model": False},
            "checkpoint": {"path": str(folder / "runs")},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_HOME", str(folder / "home"))
        patch.setattr("distmeta.training.loop.keep_pictures", lambda *_, **__: [])  # drawing takes longer than training
        result = train(config, quiet=True)
    shutil.rmtree(folder / "intents")
    return folder, result


@pytest.mark.slow
def test_a_run_trains_and_is_evaluated_on_unseen_names(run: tuple[Path, TrainResult]) -> None:
    scores = {score.metric: score.mean for score in run[1].scores}
    assert len(scores["accuracy"]) == 2, "before and after the inner step"
    assert all(np.isfinite(value) for mean in scores.values() for value in mean)


def test_labels_are_the_names_that_are_read(run: tuple[Path, TrainResult]) -> None:
    """Computed again through `distmeta.build`, from token ids."""
    folder, result = run
    learner = distmeta.load(result.checkpoint)
    predictor = learner.adapt(SUPPORT, NAMES)
    assert learner.way is None and predictor.classes is not None
    names, tokenizer = sorted(INTENTS), load_tokenizer(str(folder / "decoder"))
    assert predictor.classes.tolist() == names

    def ids(texts: list[str]) -> torch.Tensor:
        rows = tokenizer.encode([TEMPLATE.replace("{}", text) for text in texts])
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

    from distmeta.core.types import SUPPORT as ROLE
    from distmeta.core.types import Episode
    from distmeta.engine.engine import one_by_one

    words = label_ids(tokenizer, names, TEMPLATE, "here")
    support = Batch(ids(SUPPORT), torch.tensor([names.index(name) for name in NAMES]))
    task = Episode({role: batch.map(lambda x: x[None]) for role, batch in ((ROLE, support), (LABELS, Batch(words)))})
    ops = one_by_one(predictor._ops._learner)
    state = ops.adapt(learner._params, task)
    expected = ops.predict(learner._params, state, task, ids(QUERIES)[None], head="head")[0]
    np.testing.assert_allclose(predictor.outputs(QUERIES), expected.numpy(), rtol=1e-9, atol=1e-11)
    renamed = learner.adapt(SUPPORT, [name.replace("_", " ") for name in NAMES])
    np.testing.assert_array_equal(renamed.outputs(QUERIES), predictor.outputs(QUERIES))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1],
            r"^support targets: label 0 is a int, but the learner reads the names of classes; allowed: labels that",
        ),
        (["_", "fine"], r"^support targets: class name '_' has no word; allowed: names of words"),
    ],
)
def test_labels_without_words_are_refused(run: tuple[Path, TrainResult], labels: list[Any], message: str) -> None:
    learner = distmeta.load(run[1].checkpoint)
    with pytest.raises(UserError, match=message):
        learner.adapt(["pay my fine", "a fee"], labels)


def test_the_command_reads_the_names_of_a_table(
    run: tuple[Path, TrainResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support, query = tmp_path / "support.csv", tmp_path / "query.csv"
    rows = [f"{text},{name}" for text, name in zip(SUPPORT, NAMES, strict=True)]
    support.write_text("\n".join(["text,label", *rows]) + "\n")
    query.write_text("\n".join(["text", *QUERIES]) + "\n")
    arguments = ["adapt", run[1].checkpoint, "--support", str(support), "--query", str(query), "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)["predictions"]
    expected = distmeta.load(run[1].checkpoint).adapt(SUPPORT, NAMES)(QUERIES).tolist()
    assert [row["label"] for row in found] == expected


def test_a_loop_of_ones_own_gives_the_names_as_token_ids(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "name": "words",
            "tasks": texts_in(tmp_path),
            "model": transformer(),
            "algorithm": label_words(lr=0.05, steps=1, scale=0.2),
        }
    )
    algorithm = distmeta.build(config)
    meta, episode = algorithm.init(), algorithm.tasks("train", 0, 1)
    inputs, targets = episode.support.inputs[0], episode.support.targets
    assert targets is not None
    task = algorithm.adapt(meta, inputs, targets[0], labels=episode[LABELS].inputs[0])
    assert algorithm.predict(task, inputs).shape == (3, 3)
    with pytest.raises(UserError, match=r"^labels: the learner reads the names of classes; allowed: their token ids"):
        algorithm.adapt(meta, inputs, targets[0])
