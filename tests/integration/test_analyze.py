"""`distmeta analyze` on small runs over drawn characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

import distmeta
from distmeta.cli import main
from distmeta.config import RunConfig
from distmeta.config.load import change
from distmeta.core.errors import UserError
from distmeta.methods import anil, protonet
from distmeta.training import train
from distmeta.training.analysis import analyze

from ..golden.cases import CASES

TASKS = 4
BLOCKS = ["block1", "block2", "block3", "block4"]
ANIL_AT_TEST = "algorithm.evaluate={learner: {kind: gradient, phases: [{groups: [head], steps: 2, lr: 0.3}]}}"


def trained(root: Path, name: str, **sections: Any) -> RunConfig:
    phases = "algorithm.learner.phases=[{steps: 2, lr: 0.3}]"
    changes = [f"name={name}", f"checkpoint.path={root}", "checkpoint.every=2", "evaluation.final_tasks=0", phases]
    config = change(CASES["maml"], ["algorithm.evaluate={}", "runtime.shard_size=2", *changes])
    config = config.model_copy(update=sections)
    train(config, quiet=True)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the runs `maml`, `anil` and `protonet`."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
        trained(root, "maml")
        trained(root, "anil", algorithm=anil(lr=0.3, steps=2), seed=5)
        trained(root, "protonet", algorithm=protonet())
    return str(root)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_checkpoint_from_the_command_line(runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "here"
    parts = [word for part in ("freezing", "adaptation", "training") for word in ("--what", part)]
    code, printed, said = run(
        capsys, "analyze", f"{runs}/maml", "--tasks", str(TASKS), *parts, "--out", str(out), "--json"
    )
    assert code == 0, said
    found = json.loads(printed)
    assert json.loads((out / "analysis.json").read_text()) == {key: found[key] for key in found if key != "out"}
    assert found["out"] == [
        str(out / name) for name in ("analysis.json", "freezing.png", "adaptation.png", "training.png")
    ]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in found["out"][1:])

    rows = {row["frozen"]: row for row in found["freezing"]}
    assert list(rows) == ["none", "block1", *(f"block1 to {block}" for block in BLOCKS[1:]), "all, no head (NIL)"]
    plain = distmeta.evaluate(f"{runs}/maml", tasks=TASKS).to_json()["result"]
    assert (rows["none"]["before"], rows["none"]["after"]) == (plain["before"], plain["after"])
    alike = distmeta.evaluate(f"{runs}/maml", tasks=TASKS, overrides=[ANIL_AT_TEST]).to_json()["result"]
    last = rows["block1 to block4"]
    assert (last["after"], last["interval"]) == (alike["after"], alike["interval"])

    assert [row["layer"] for row in found["adaptation"]] == [*BLOCKS, "outputs"]
    assert all(row["cka"] < 1 and row["second"] == "after" for row in found["adaptation"])
    assert [(row["first"], row["second"]) for row in found["training"]] == [("step 4", "step 5")] * 5
    assert all(0.9 < row["cka"] < 1 for row in found["training"])


def test_checkpoints_of_several_methods_are_compared_on_the_same_tasks(
    runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{runs}/{name}" for name in ("maml", "anil", "protonet")]
    code, printed, said = run(capsys, "analyze", *names, "--tasks", str(TASKS), "--out", str(tmp_path))
    assert code == 0, said
    assert "between" in printed
    found = json.loads((tmp_path / "analysis.json").read_text())["between"]
    assert [row["layer"] for row in found] == [block for block in BLOCKS for _ in range(3)]  # ProtoNet has no head
    pairs = [(row["first"], row["second"]) for row in found[:3]]
    assert pairs == [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    # MAML and ProtoNet start from the same weights, and five steps have not led them far apart.
    for layer in range(0, len(found), 3):
        other_seed, same_seed = found[layer]["cka"], found[layer + 1]["cka"]
        assert other_seed < same_seed < 1


def test_adapting_the_head_alone_leaves_the_body_as_it_was(runs: str) -> None:
    rows = analyze([f"{runs}/anil"], what=["adaptation"], tasks=TASKS).to_json()["adaptation"]
    assert [row["cka"] for row in rows[:-1]] == [1.0] * len(BLOCKS)
    assert rows[-1]["cka"] < 1


@pytest.mark.slow
def test_an_analysis_is_a_run_of_mlflow(runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    recorded = ["--set", "tracking.kind=mlflow", "--set", f"tracking.uri={uri}", "--set", "tracking.experiment=studies"]
    code, printed, said = run(capsys, "analyze", f"{runs}/maml", "--tasks", str(TASKS), *recorded, "--json")
    assert code == 0, said
    found = json.loads(printed)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("studies")
    assert experiment is not None
    [logged] = client.search_runs([experiment.experiment_id])
    assert (logged.info.run_name, logged.info.status) == ("analysis of maml", "FINISHED")
    assert logged.info.run_id in found["address"]
    rows = {row["layer"]: row for row in found["adaptation"]}
    assert {layer: logged.data.metrics[f"adaptation.cka.{layer}"] for layer in rows} == {
        layer: row["cka"] for layer, row in rows.items()
    }
    accuracies = [value for name, value in logged.data.metrics.items() if name.startswith("freezing.accuracy.after.")]
    assert sorted(accuracies) == sorted(row["after"] for row in found["freezing"])
    files = {file.path for file in client.list_artifacts(logged.info.run_id, "analysis")}
    assert files == {f"analysis/{name}" for name in ("analysis.json", "adaptation.png", "freezing.png")}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["protonet"], [], "--what: the learner 'prototype' takes no inner steps"),
        (["protonet"], ["--what", "freezing"], "the learner 'prototype' has no inner steps that move groups"),
        (["maml"], ["--what", "between"], "'between' takes several checkpoints, not 1"),
        (["maml", "anil"], ["--what", "freezing"], "'freezing' takes one checkpoint, not 2"),
        (["maml", "maml"], [], "is given twice"),
        (["maml/step-00000005"], ["--what", "training"], "has 0 checkpoints of a run"),
        (["maml", "nowhere"], [], "there is no such file or folder"),
        (["maml"], ["--what", "frozen"], "--what: unknown value 'frozen'"),
        (["maml"], ["--set", "algorithm.learner.frozen=[block9]"], "unknown parameter group 'block9'"),
        (["maml"], ["--set", "tracking.kind=mlflow", "--set", "tracking.uri=sqlite:////"], "tracking.uri"),
    ],
)
def test_what_is_not_defined_is_refused_in_one_line(
    runs: str, capsys: pytest.CaptureFixture[str], names: list[str], options: list[str], message: str
) -> None:
    code, _, said = run(capsys, "analyze", *(f"{runs}/{name}" for name in names), *options)
    assert code == 2
    assert said.count("\n") == 1
    assert message in said


def test_other_networks_are_not_compared(runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distmeta.training.loop.keep_pictures", lambda *arguments: [])
    trained(tmp_path, "wide", model=CASES["maml"].model.model_copy(update={"filters": 5}))
    with pytest.raises(UserError, match=r"its parameter 'block1.conv.weight' is float32 \[5, 1, 3, 3\]"):
        analyze([f"{runs}/maml", f"{tmp_path}/wide"], tasks=TASKS)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_any_number_of_ray_workers_gives_the_same_numbers(ray_cluster: None, runs: str) -> None:
    def found(*changes: str) -> list[dict[str, Any]]:
        alone = analyze([f"{runs}/maml"], what=["adaptation"], tasks=8, overrides=changes)
        several = analyze([f"{runs}/maml", f"{runs}/anil"], tasks=8, overrides=changes)
        return [alone.to_json(), several.to_json()]

    local = found()
    for workers in (1, 2):
        assert found("runtime.executor=ray", f"runtime.workers={workers}") == local
