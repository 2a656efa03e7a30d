"""`distmeta stream` on small runs over drawn characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distmeta.cli import main
from distmeta.config.load import change
from distmeta.core.errors import UserError
from distmeta.methods import pretrain
from distmeta.training import train
from distmeta.training.stream import UNTRAINED, Protocol, learn_streams

from ..golden.cases import CASES

SMALL = ("--classes", "3,6", "--shots", "4", "--queries", "3", "--orders", "2", "--rates", "0.1,0.01", "--passes", "2")
PROTOCOL = Protocol(classes=(4,), shots=3, queries=2, orders=2, rates=(0.1,), passes=1)


def trained(root: Path, case: str, **sections: Any) -> None:
    changes = ["train.steps=2", "evaluation.final_tasks=0", f"checkpoint.path={root}"]
    train(change(CASES[case], changes).model_copy(update=sections), quiet=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the runs `anml`, `joint` and `maml`."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
        trained(root, "anml")
        trained(root, "oml", name="joint", algorithm=pretrain())
        trained(root, "maml")
    return str(root)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_streams_from_the_command_line(runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "here"
    command = ("stream", f"{runs}/anml", f"{runs}/joint", *SMALL)
    code, printed, said = run(capsys, *command, "--out", str(out), "--json")
    assert code == 0, said
    found = json.loads(printed)
    assert json.loads((out / "stream.json").read_text()) == {key: found[key] for key in found if key != "out"}
    assert found["out"] == [str(out / name) for name in ("stream.json", "classes.png", "along.png")]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found["out"][1:])
    assert [(end["features"], end["classes"], end["order"]) for end in found["ends"]] == [
        (features, classes, order)
        for features in ("anml", "pretrain", UNTRAINED)
        for classes in (3, 6)
        for order in ("stream", "oracle")
    ]
    for end in found["ends"]:
        assert end["rate"] in (0.1, 0.01)
        assert 0 <= end["test"]["mean"] <= 1
        assert end["test"]["interval"] >= 0
    # Random drawings are told apart better than by chance even by random features.
    assert all(end["train"]["mean"] > 1.5 / end["classes"] for end in found["ends"])
    for name, points in found["along"].items():
        assert [point["classes"] for point in points] == [1, 2, 3, 4, 5, 6]
        (end,) = (e for e in found["ends"] if (e["features"], e["classes"], e["order"]) == (name, 6, "stream"))
        assert (points[-1]["train"], points[-1]["test"]) == (end["train"], end["test"])

    code, printed, said = run(capsys, *command)
    assert code == 0, said
    assert f"{found['ends'][0]['test']['mean']:.4f} ± " in printed


def test_streams_do_not_depend_on_threads_or_company(runs: str) -> None:
    alone = learn_streams([f"{runs}/anml"], PROTOCOL)
    together = learn_streams([f"{runs}/anml", f"{runs}/joint"], PROTOCOL, overrides=["runtime.threads_per_worker=2"])
    assert alone.ends == [end for end in together.ends if end.features != "pretrain"]
    other = learn_streams([f"{runs}/anml"], Protocol(**{**vars(PROTOCOL), "seed": 7}))
    assert other.ends != alone.ends


@pytest.mark.parametrize(
    ("names", "fields", "message"),
    [
        (["maml"], {}, r"maml.*, model.kind: 'conv4' mixes the examples of a batch.*such as convnet"),
        (["anml", "anml"], {}, "anml' is given twice"),
        (["anml"], {"classes": (1,)}, "--classes: a stream has two classes or more"),
        (["anml"], {"classes": (10**6,)}, "--classes: 5000000 examples in a stream; allowed: at most 1000000"),
        (["anml"], {"shots": 1}, "--shots: 1 training examples"),
        (["anml"], {"rates": (0.1, -1.0)}, "--rates: a learning rate is not positive"),
        (["anml"], {"optimizer": "adagrad"}, "--optimizer: unknown optimizer 'adagrad'"),
    ],
)
def test_bad_input_is_refused(runs: str, names: list[str], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        learn_streams([f"{runs}/{name}" for name in names], Protocol(**{**vars(PROTOCOL), **fields}))


def test_bad_lists_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, "stream", "nowhere", "--classes", "ten")
    assert (code, said) == (2, "error: --classes: 'ten' is no list of numbers; allowed: numbers with commas between\n")
