"""Nothing in a checkpoint says where to connect, what to import or where to write."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import distmeta
from distmeta import checkpoint as checkpoints
from distmeta.cli.app import run as command
from distmeta.config import RunConfig
from distmeta.config.load import to_yaml
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.tracking.uris import tracking_uri
from distmeta.training import train


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine, and everybody who has connected to it."""
    visitors: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                visitors.append(address)
                connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], visitors
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "waves",
            "tasks": {"source": "sinusoid"},
            "model": {"kind": "mlp", "hidden": [4]},
            "engine": {"strategy": "vmap"},
            "algorithm": {"learner": {"kind": "gradient", "phases": [{"lr": 0.01}]}},
            "train": {"steps": 2, "tasks_per_step": 2},
            "runtime": {"executor": "local"},
            "evaluation": {"final_tasks": 0},
            "tracking": {"kind": "none"},
            "checkpoint": {"path": str(tmp_path / "runs")},
        }
    )


@pytest.fixture
def saved(config: RunConfig) -> Path:
    return Path(train(config, quiet=True).checkpoint)


def edit(folder: Path, /, **sections: Any) -> None:
    content = json.loads((folder / "state.json").read_text())
    content["config"].update(sections)
    (folder / "state.json").write_text(json.dumps(content))


def test_a_checkpoint_that_names_a_cluster_and_a_server_reaches_neither(
    saved: Path, config: RunConfig, listener: tuple[int, list[object]], tmp_path: Path
) -> None:
    port, visitors = listener
    elsewhere = tmp_path / "elsewhere"
    edit(
        saved,
        runtime={"executor": "ray", "address": f"127.0.0.1:{port}", "workers": 1},
        tracking={"kind": "mlflow", "uri": f"http://127.0.0.1:{port}", "experiment": "theirs"},
        checkpoint={"path": str(elsewhere)},
    )
    assert distmeta.evaluate(str(saved), tasks=2).step == 2
    learner = distmeta.load(str(saved))
    assert learner.adapt(np.zeros((3, 1)), np.zeros((3, 1)))(np.zeros((2, 1))).shape == (2, 1)
    assert command(["checkpoint", "show", str(saved)]) == 0
    assert (
        train(config.model_copy(update={"train": config.train.model_copy(update={"steps": 3})}), resume=True).steps == 3
    )
    assert visitors == []
    assert not elsewhere.exists()


def test_passwords_are_in_no_file_of_a_checkpoint_and_shown_by_no_command(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "http://me:hunter2@127.0.0.1:9"
    secret = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})
    path = Path(train(secret, quiet=True).checkpoint)
    assert not [file for file in path.iterdir() if b"hunter2" in file.read_bytes()]
    assert command(["checkpoint", "show", str(path)]) == 0
    job = tmp_path / "job.yaml"
    job.write_text(to_yaml(secret))
    for option in ((), ("--json",)):
        assert command(["train", str(job), "--dry-run", *option]) == 0
    captured = capsys.readouterr()
    assert "hunter2" not in captured.out + captured.err
    assert "me:***@" in captured.out


def test_an_address_can_be_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    file = tmp_path / "uri"
    file.write_text("http://me:hunter2@127.0.0.1:9\n")
    file.chmod(0o644)
    with pytest.raises(UserError, match=r"tracking\.uri_file: others may read .*chmod 600"):
        tracking_uri(None, str(file))
    file.chmod(0o600)
    assert tracking_uri(None, str(file)) == "http://me:hunter2@127.0.0.1:9"
    with pytest.raises(UserError, match=r"tracking\.uri_file: .* cannot be read"):
        tracking_uri(None, str(tmp_path / "none"))


def test_a_masked_address_is_refused_instead_of_used(config: RunConfig) -> None:
    masked = {"kind": "mlflow", "uri": "http://me:***@127.0.0.1:9"}
    with pytest.raises(UserError, match=r"tracking\.uri: .* is masked; allowed: .*MLFLOW_TRACKING_URI"):
        train(RunConfig.model_validate({**config.model_dump(mode="json"), "tracking": masked}), quiet=True)


def tamper(checkpoint: Path, **tensors: Any) -> None:
    """Change meta-parameters and everything that vouches for them."""
    import hashlib

    file = checkpoint / "meta.safetensors"
    params = load_file(file)
    for name, change in tensors.items():
        params[name.replace("__", ".")] = change(params[name.replace("__", ".")])
    save_file(params, file)
    content = json.loads((checkpoint / "state.json").read_text())
    content["sha256"]["meta.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    content["digest"] = digest(params)
    (checkpoint / "state.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w * float("nan"), "a parameter is infinite or not a number"),
        (lambda w: w.double(), r"parameter 'head.weight' is torch.float64 \[1, 4\]; allowed: torch.float32"),
        (lambda w: w[:, :2].contiguous(), r"parameter 'head.weight' is torch.float32 \[1, 2\]; allowed: .*\[1, 4\]"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(saved: Path, change: Any, message: str) -> None:
    tamper(saved, head__weight=change)
    for use in (lambda: distmeta.evaluate(str(saved), tasks=2), lambda: distmeta.load(str(saved))):
        with pytest.raises(UserError, match=message):
            use()


def test_a_configuration_of_another_network_is_refused(saved: Path) -> None:
    edit(saved, model={"kind": "mlp", "hidden": [4, 4]})
    with pytest.raises(UserError, match="parameters are not those of its configuration"):
        distmeta.evaluate(str(saved), tasks=2)


def test_a_run_that_has_checkpoints_is_neither_resumed_nor_replaced_unasked(saved: Path, config: RunConfig) -> None:
    before = checkpoints.load(str(saved)).digest
    with pytest.raises(UserError, match=r"the run 'waves' has checkpoints .*; allowed: --resume .* --anew"):
        train(config, quiet=True)
    assert checkpoints.load(str(saved)).digest == before
    other = config.model_copy(update={"seed": 1})
    assert train(other, anew=True, quiet=True).digest != before
    assert checkpoints.load(f"{config.checkpoint.path}/waves~1").digest == before


def test_a_run_that_cannot_start_moves_nothing(saved: Path, config: RunConfig) -> None:
    broken = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"kind": "mlflow", "uri": "odd:x"})}
    )
    with pytest.raises(UserError, match=r"tracking\.uri"):
        train(broken, anew=True, quiet=True)
    assert [path.name for path in Path(config.checkpoint.path).iterdir() if path.is_dir()] == ["waves"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(saved: Path, config: RunConfig) -> None:
    longer = config.model_copy(
        update={
            "train": config.train.model_copy(update={"steps": 6}),
            "checkpoint": config.checkpoint.model_copy(update={"every": 2, "keep_last": 5}),
        }
    )
    expected = train(longer, resume=True, quiet=True).digest
    newest = saved.parent / "step-00000006"
    (newest / "meta.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"the newest checkpoint cannot be used: .*--resume --which previous"):
        train(longer, resume=True, quiet=True)
    result = train(longer, resume=True, which="previous", quiet=True)
    assert (result.steps, result.digest) == (6, expected)
    assert (saved.parent / "aside-step-00000006" / "meta.safetensors").read_bytes() == b"cut"
