"""`distmeta adapt --unlabelled` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmeta.adapt.load import load
from distmeta.cli import main
from distmeta.cli.adapt_images import images_in, read_images
from distmeta.config import (
    CheckpointConfig,
    Conv4Config,
    EvaluationConfig,
    GlyphTasks,
    ResNet12Config,
    RunConfig,
    RuntimeConfig,
    ShiftedTasks,
    TrackingConfig,
    TrainConfig,
)
from distmeta.data.store import write_store
from distmeta.methods import tent
from distmeta.training import train


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one step, `runs/letters`, and five images in `photos`."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("home")
    config = RunConfig(
        name="letters",
        tasks=GlyphTasks(way=3, size=16, queries=4, eval_queries=4),
        model=Conv4Config(filters=3),
        algorithm=tent(),
        runtime=RuntimeConfig(executor="local"),
        train=TrainConfig(steps=1, tasks_per_step=1),
        evaluation=EvaluationConfig(final_tasks=0),
        checkpoint=CheckpointConfig(path=str(folder / "runs")),
        tracking=TrackingConfig(kind="none"),
    )
    train(config, quiet=True)
    (folder / "photos").mkdir()
    (folder / "empty").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return folder


def command(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> tuple[str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.out, captured.err


def test_images_are_labelled_in_batches(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    arguments = ("adapt", "runs/letters", "--unlabelled", "photos", "--method", "tent", "--lr", "0.5", "--batch", "2")
    found: dict[str, Any] = json.loads(command(capsys, 0, *arguments, "--json")[0])
    assert list(found["labels"]) == [f"{number}.png" for number in range(5)]
    assert set(found["labels"].values()) <= {0, 1, 2}
    online, episodic = (
        (command(capsys, 0, *arguments, "--setting", setting, "--out", "o.csv"), (home / "o.csv").read_text())[1]
        for setting in ("online", "episodic")
    )
    assert online.splitlines()[0] == "file,label,confidence"
    assert online.splitlines()[:3] == episodic.splitlines()[:3]
    assert online.splitlines()[3:] != episodic.splitlines()[3:]


def test_labels_are_the_names_of_classes_that_all_tasks_share(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cat", "dog", "horse"]
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 16, 16), dtype=np.uint8)
    write_store(tmp_path / "pets", images, class_names=names, class_counts=[20] * 3, splits={"x": {}})
    config = RunConfig(
        name="pets",
        tasks=ShiftedTasks(store=str(tmp_path / "pets"), examples=4, queries=4, eval_queries=4),
        model=ResNet12Config(widths=(3, 3, 4, 8)),
        algorithm=tent(),
        runtime=RuntimeConfig(executor="local"),
        train=TrainConfig(steps=1, tasks_per_step=1),
        evaluation=EvaluationConfig(final_tasks=0),
        checkpoint=CheckpointConfig(path=str(tmp_path / "runs")),
        tracking=TrackingConfig(kind="none"),
    )
    train(config, quiet=True)
    arguments = ("adapt", str(tmp_path / "runs" / "pets"), "--unlabelled", str(home / "photos"), "--json")
    found = json.loads(command(capsys, 0, *arguments)[0])
    assert set(found["labels"].values()) <= set(names)
    stream = load(str(tmp_path / "runs" / "pets")).stream()
    labels = stream(read_images(images_in(home / "photos"), (1, 16, 16), invert=False))
    assert stream.classes == tuple(names)
    assert [names[label] for label in labels] == list(found["labels"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--unlabelled", "photos", "--support", "x"), "--unlabelled goes without --support, --query and columns"),
        (("--unlabelled", "nowhere"), "nowhere: no such folder"),
        (("--unlabelled", "empty"), "empty: holds no image"),
        (("--unlabelled", "photos", "--batch", "0"), "--batch: 0 images; allowed: 1 or more"),
        (("--unlabelled", "photos", "--setting", "x"), "--setting: unknown setting 'x'; allowed: online, episodic"),
        (("--unlabelled", "photos", "--lr", "0.1"), "--lr: 0.1; allowed: a positive number, beside a --method"),
        (("--unlabelled", "photos", "--method", "tent", "--lr", "-1"), "--lr: -1; allowed: a positive number"),
        (("--unlabelled", "photos", "--method", "tnet"), "unknown method 'tnet'; allowed: did you mean 'tent'"),
        (("--unlabelled", "photos", "--method", "maml"), "adapts to role 'support', which needs labels"),
        (("--unlabelled", "photos", "--method", "bn_adapt"), "keeps no statistics to adapt"),
        (("--method", "tent"), "--method and --lr need --unlabelled DIR"),
        (("--query", "photos"), "--support is missing; allowed: --support and --query, or --unlabelled DIR"),
    ],
)
def test_bad_input_is_one_line(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(home)
    said = command(capsys, 2, "adapt", "runs/letters", *arguments)[1]
    assert message in said
    assert len(said.splitlines()) == 1, said
