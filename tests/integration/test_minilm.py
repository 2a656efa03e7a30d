"""MiniLM with LoRA: the jobs of few-shot intents, and the demo's sentences."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

import distmeta
from distmeta.adapt.load import AdaptableLearner
from distmeta.cli import main
from distmeta.config.load import load_config
from distmeta.core.types import TokenIds
from distmeta.methods.build import build_algorithm
from distmeta.tasks.base import TaskSignature
from distmeta.training import train

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "intents.py"
EXAMPLES = ROOT / "jobs" / "examples"
NAMES = ("lora_protonet", "proto_maml", "fomaml", "reptile", "frozen", "lora_plain")
ANSWERS = ["renew a loan", "book a room", "replace a card"]
SHORT = ["train.steps=1", "evaluation.every=0", "evaluation.final_tasks=2", "tracking.kind=none"]
SHORT += ["runtime.executor=local", "tasks.eval_queries=1", "train.patience=null"]
pytestmark = pytest.mark.text
needs_banking77 = pytest.mark.skipif(
    not (Path(os.environ.get("DISTMETA_DATA", "/nowhere")) / "banking77").is_dir(),
    reason="DISTMETA_DATA does not name a folder that holds banking77/",
)


def rows_of(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_frozen_features_sort_the_demo_s_sentences_and_agree_with_the_library() -> None:
    """Class means of MiniLM's own features, computed here with the network's own class of transformers."""
    import torch
    import transformers

    from distmeta.models.petl.tokens import load_tokenizer, minilm_folder

    config = load_config(f"{JOB}:frozen", [])
    tokens = load_tokenizer("minilm")
    outputs = {"support": 5, "query": 5, "source": 25}
    known = TokenIds(tokens.vocab_size, tokens.pad_id)
    signature = TaskSignature((config.tasks.buckets[-1],), 5, outputs, "cross_entropy", known)
    learner = AdaptableLearner(config, signature, build_algorithm(config, signature).learner.init(0))
    labelled, questions = rows_of("help_desk.csv"), [row["text"] for row in rows_of("questions.csv")]
    predict = learner.adapt([row["text"] for row in labelled], [row["label"] for row in labelled])
    assert predict(questions).tolist() == ANSWERS

    network = transformers.AutoModel.from_pretrained(str(minilm_folder()), local_files_only=True).eval()
    backend = transformers.AutoTokenizer.from_pretrained(str(minilm_folder()))

    def features(text: str) -> torch.Tensor:
        with torch.no_grad():
            hidden = network(**backend(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        return hidden / hidden.norm()

    classes = sorted(ANSWERS)
    means = [
        torch.stack([features(row["text"]) for row in labelled if row["label"] == name]).mean(0) for name in classes
    ]
    logits = torch.stack(
        [torch.stack([-10 * (features(text) - mean).square().sum() for mean in means]) for text in questions]
    )
    np.testing.assert_allclose(predict.confidences(questions), torch.softmax(logits, 1).numpy(), atol=1e-5)


@needs_banking77
@pytest.mark.parametrize("name", NAMES)
def test_a_job_makes_a_step_and_is_tested(name: str, tmp_path: Path) -> None:
    changes = SHORT if name not in ("frozen", "lora_plain") else [each for each in SHORT if "steps" not in each]
    if name in ("lora_protonet", "proto_maml"):
        changes = [*changes, "tasks.train_way=6"]
    result = train(load_config(f"{JOB}:{name}", [*changes, f"checkpoint.path={tmp_path}"]), quiet=True)
    assert result.steps == (0 if name in ("frozen", "lora_plain") else 1)
    assert all(np.isfinite(score.mean).all() for score in result.scores)
    way = 5 if name in ("fomaml", "reptile") else None
    assert distmeta.load(result.checkpoint).way == way


@needs_banking77
def test_the_demo_s_command_labels_its_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(load_config(f"{JOB}:lora_protonet", [*SHORT, "tasks.train_way=6", "name=demo_text"]), quiet=True)
    capsys.readouterr()
    files = ["--support", str(EXAMPLES / "help_desk.csv"), "--query", str(EXAMPLES / "questions.csv")]
    with pytest.raises(SystemExit) as ended:
        main(["adapt", "runs/demo_text", *files, "--json", "--out", "labels.csv"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["classes"] == sorted(ANSWERS)
    assert [row["label"] for row in found["predictions"]] == ANSWERS
    with open("labels.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["label"] for row in written] == ANSWERS
    assert all(0.3 < float(row["confidence"]) <= 1 and row["second"] in ANSWERS for row in written)
