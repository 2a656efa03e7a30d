"""Checkpoints: exact resumption, crashes, damaged files, and the commands that show them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from distmeta import checkpoint
from distmeta.checkpoint.storage import Folder, StoreError
from distmeta.cli.checkpoint import app
from distmeta.config import CheckpointConfig, OuterConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.core.types import Params, Report, Update
from distmeta.server.outer import State
from distmeta.server.synchronous import ParameterServer, Verdict
from distmeta.tasks.base import TaskSignature

SIGNATURE = TaskSignature(
    input_shape=(1, 28, 28), num_outputs=5, train_outputs={"query": 20}, objective="cross_entropy"
)


def make_params(dtype: torch.dtype = torch.float32) -> Params:
    generator = torch.Generator().manual_seed(0)
    shapes = {"body.weight": (4, 3), "body.bias": (4,), "scale": ()}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def make_config(root: Path | str, *, keep_last: int = 2, **outer: Any) -> RunConfig:
    return RunConfig(
        name="run-1", outer=OuterConfig(**outer), checkpoint=CheckpointConfig(path=str(root), keep_last=keep_last)
    )


def make_server(config: RunConfig, dtype: torch.dtype = torch.float32) -> ParameterServer:
    return ParameterServer(make_params(dtype), config.outer, 10)


def advance(server: ParameterServer, steps: int) -> None:
    for _ in range(steps):
        for shard in range(3):
            generator = torch.Generator().manual_seed(100 * server.version + shard)
            params = server.pull().params
            grad = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}
            assert server.push(Report(server.version, shard, Update(grad, 2.0))) is Verdict.ACCEPTED
        server.step(3)


def save_steps(config: RunConfig, scores: dict[int, float | None]) -> ParameterServer:
    """Save a checkpoint for each step with its score."""
    server = make_server(config)
    for step, score in scores.items():
        advance(server, 1)
        save(config, step, server.state_dict(), score=score, run_id="abc")
    return server


def save(config: RunConfig, step: int, state: State, **extra: Any) -> str:
    return checkpoint.save(config, step, state, signature=SIGNATURE, **extra)


def steps_in(root: Path) -> list[str]:
    return sorted(os.listdir(root / "run-1"))


def test_tensors_keep_their_order(tmp_path: Path) -> None:
    """Safetensors files do not: they are read in another order by each process."""
    config = make_config(tmp_path, average=0.9)
    names = [f"layer{(7 * index) % 40}" for index in range(40)]
    server = ParameterServer({name: torch.ones(2) for name in names}, config.outer, 10)
    path = save(config, 0, server.state_dict())
    found = checkpoint.load(path)
    assert list(found.params) == list(found.averaged) == names
    state = Path(path, "state.json")
    older = json.loads(state.read_text())
    del older["order"]
    state.write_text(json.dumps(older))
    assert list(checkpoint.load(path).params) == sorted(names)


@pytest.fixture
def memory() -> str:
    """An empty in-memory file system."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return "memory://bucket/runs"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "outer",
    [
        {"optimizer": "Adam"},
        {"optimizer": "SGD"},
        {"optimizer": "SGD", "options": {"momentum": 0.9}},
        {"optimizer": "AdamW", "schedule": "cosine", "warmup_steps": 3, "clip_norm": 0.5, "average": 0.95},
    ],
    ids=["adam", "sgd", "momentum", "everything"],
)
def test_a_resumed_server_continues_to_the_same_bits(tmp_path: Path, outer: dict[str, Any], dtype: torch.dtype) -> None:
    config = make_config(tmp_path, **outer)
    straight = make_server(config, dtype)
    advance(straight, 10)
    first = make_server(config, dtype)
    advance(first, 5)
    path = save(config, 5, first.state_dict())
    resumed = make_server(config, dtype)
    resumed.load_state_dict(checkpoint.load(path).state)
    advance(resumed, 5)
    assert resumed.version == 10
    assert digest(resumed.pull().params) == digest(straight.pull().params)
    assert digest(resumed.averaged()) == digest(straight.averaged())


def test_all_contents_round_trip(tmp_path: Path) -> None:
    config = make_config(tmp_path, options={"betas": (0.8, 0.9)}, average=0.9)
    server = make_server(config)
    advance(server, 3)
    progress = {"elapsed_s": 1 / 3}
    path = save(config, 3, server.state_dict(), run_id="id", score=0.25, progress=progress)
    loaded = checkpoint.load(path)
    assert loaded.path == path == str(tmp_path / "run-1" / "step-00000003")
    assert sorted(os.listdir(path)) == ["averaged.safetensors", "meta.safetensors", "server.safetensors", "state.json"]
    assert (loaded.step, loaded.run_id, loaded.score) == (3, "id", 0.25)
    assert loaded.recorded == config.model_dump(mode="json")
    assert loaded.signature == SIGNATURE
    assert loaded.progress == progress
    assert loaded.digest == digest(loaded.params) == digest(server.pull().params)
    assert digest(loaded.averaged) == digest(server.averaged()) != loaded.digest


def test_without_averaging_the_averaged_parameters_are_the_plain_ones(tmp_path: Path) -> None:
    config = make_config(tmp_path, optimizer="SGD")
    server = save_steps(config, {1: None})
    loaded = checkpoint.load(tmp_path / "run-1")
    assert sorted(os.listdir(loaded.path)) == ["meta.safetensors", "state.json"]
    assert digest(loaded.averaged) == digest(loaded.params) == digest(server.pull().params)


def test_latest_and_best(tmp_path: Path) -> None:
    config = make_config(tmp_path, keep_last=2)
    save_steps(config, {1: 0.5, 2: 0.9, 3: None, 4: 0.9, 5: 0.3, 6: float("nan")})
    assert steps_in(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    assert checkpoint.load(tmp_path / "run-1").step == 6
    assert checkpoint.load(tmp_path / "run-1", "best").step == 2
    latest = checkpoint.latest(tmp_path, "run-1")
    assert latest is not None and checkpoint.load(latest).step == 6
    assert checkpoint.latest(tmp_path, "other") is None
    assert [(s.step, s.best) for s in checkpoint.summaries(tmp_path)] == [(2, True), (5, False), (6, False)]


def test_without_scores_no_checkpoint_is_the_best(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path), {1: None, 2: None})
    with pytest.raises(UserError, match=r"run-1: no checkpoint has a validation score; allowed: the latest one"):
        checkpoint.load(tmp_path / "run-1", "best")


def test_steps_sort_as_numbers(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path, keep_last=1), {99_999_999: None, 100_000_000: None})
    assert steps_in(tmp_path) == ["step-100000000"]


def test_the_checkpoint_just_saved_is_kept_even_if_later_steps_exist(tmp_path: Path) -> None:
    config = make_config(tmp_path, keep_last=1)
    server = save_steps(config, {10: None})
    save(config, 5, server.state_dict())
    assert steps_in(tmp_path) == ["step-00000005", "step-00000010"]


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    server = save_steps(config, {5: 0.1})
    advance(server, 1)
    save(config, 5, server.state_dict(), score=0.2)
    assert steps_in(tmp_path) == ["step-00000005"]
    loaded = checkpoint.load(tmp_path / "run-1")
    assert (loaded.score, loaded.digest) == (0.2, digest(server.pull().params))


def test_retired_checkpoints_are_moved_to_the_first_unused_name(tmp_path: Path, memory: str) -> None:
    for root in (str(tmp_path), memory):
        config = make_config(root)
        assert checkpoint.retire(root, "run-1") is None
        for number in (1, 2):
            server = save_steps(config, {10 * number: None})
            path = checkpoint.retire(root, "run-1")
            assert path is not None and path.endswith(f"/run-1~{number}")
            assert checkpoint.latest(root, "run-1") is None
            assert checkpoint.load(path).digest == digest(server.pull().params)
        save_steps(config, {1: None})
        assert [summary.step for summary in checkpoint.summaries(root)] == [1, 10, 20]


def test_files_are_the_same_bytes_for_the_same_state(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path / "a"), {1: None})
    save_steps(make_config(tmp_path / "b"), {1: None})
    for name in ("meta.safetensors", "server.safetensors"):
        parts = [tmp_path / root / "run-1" / "step-00000001" / name for root in "ab"]
        assert parts[0].read_bytes() == parts[1].read_bytes()


def test_a_crash_on_a_local_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    server = save_steps(config, {1: None})
    before = server.pull().params
    flush, flushed = os.fsync, []

    def crash_at_third_file(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == 3:
            raise KeyboardInterrupt
        flush(handle)

    advance(server, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash_at_third_file)
        with pytest.raises(KeyboardInterrupt):
            save(config, 2, server.state_dict())
    assert any(name.startswith(".saving-") for name in steps_in(tmp_path))
    assert checkpoint.load(tmp_path / "run-1").digest == digest(before)
    save(config, 2, server.state_dict())
    assert steps_in(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_crash_in_an_object_store_leaves_the_previous_checkpoint(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(memory)
    server = save_steps(config, {1: None})
    write = MemoryFileSystem.pipe_file

    def crash_at_marker(self: MemoryFileSystem, path: str, value: bytes) -> None:
        if path.endswith("state.json"):
            raise KeyboardInterrupt
        write(self, path, value)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", crash_at_marker)
        with pytest.raises(KeyboardInterrupt):
            save(config, 2, server.state_dict())
    assert checkpoint.load(f"{memory}/run-1").step == 1
    with pytest.raises(UserError, match="there is no checkpoint in it"):
        checkpoint.load(f"{memory}/run-1/step-00000002")
    save(config, 3, server.state_dict())
    assert [child.name for child in Folder.at(f"{memory}/run-1").children()] == ["step-00000001", "step-00000003"]


def test_memory_and_file_urls(tmp_path: Path, memory: str) -> None:
    for root in (memory, f"file://{tmp_path}/runs"):
        config = make_config(root, keep_last=1)
        server = save_steps(config, {1: 0.9, 2: 0.1, 3: 0.2})
        assert [summary.step for summary in checkpoint.summaries(root)] == [1, 3]
        assert checkpoint.load(f"{root}/run-1", "best").step == 1
        path = checkpoint.latest(root, "run-1")
        assert path is not None
        loaded = checkpoint.load(path)
        assert loaded.path == path
        assert loaded.digest == digest(loaded.params) == digest(server.pull().params)
    assert (tmp_path / "runs" / "run-1" / "step-00000003" / "state.json").is_file()


def truncate(folder: Path) -> None:
    (folder / "meta.safetensors").write_bytes((folder / "meta.safetensors").read_bytes()[:-5])


def flip_bit(folder: Path) -> None:
    content = bytearray((folder / "server.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "server.safetensors").write_bytes(bytes(content))


def delete_tensors(folder: Path) -> None:
    (folder / "meta.safetensors").unlink()


def edit(**change: object) -> Any:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**content, **change}))

    return damage


def cut_json(folder: Path) -> None:
    (folder / "state.json").write_text((folder / "state.json").read_text()[:100])


def deep_json(folder: Path) -> None:
    (folder / "state.json").write_text("[" * 100_000)


def unknown_type(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "I3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0"
    (folder / "meta.safetensors").write_bytes(content)
    edit(sha256={"meta.safetensors": hashlib.sha256(content).hexdigest()})(folder)


def replace_tensors(folder: Path) -> None:
    """Replace the tensors by another kind of file, with a matching checksum."""
    import hashlib

    (folder / "meta.safetensors").write_bytes(b"not tensors")
    edit(sha256={"meta.safetensors": hashlib.sha256(b"not tensors").hexdigest()})(folder)


def signature(**changes: Any) -> dict[str, Any]:
    return asdict(replace(SIGNATURE, **changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "meta.safetensors: the file is truncated or corrupted"),
        (flip_bit, "server.safetensors: the file is truncated or corrupted"),
        (delete_tensors, "meta.safetensors: the file cannot be read"),
        (replace_tensors, "meta.safetensors: not a safetensors file"),
        (cut_json, "state.json: the file is truncated or corrupted"),
        (edit(format=2), "state.json: unknown checkpoint format 2; allowed: 1"),
        (edit(step="soon"), "step: 'soon' is not valid; allowed: an integer"),
        (edit(sha256={"../../x": "0"}), "state.json: it lists the files"),
        (edit(sha256={}), "state.json: it lists the files"),
        (edit(config={"name": "x", "sede": 1}), "state.json: sede: unknown field 'sede'; allowed: did you mean 'seed'"),
        (edit(config={"name": "../x"}), "is not a run name"),
        (edit(config={"name": "x", "runtime": {"shard_size": 0}}), "runtime.shard_size: 0 is not valid"),
        (edit(digest="0" * 64), f"state.json: digest {'0' * 64}; allowed: "),
        (edit(step=-1), "step: -1 is not valid"),
        (edit(progress={"tasks": "NaN"}), "progress.tasks: 'NaN' is not valid"),
        (edit(progress={"train_s": -1.0}), "progress.train_s: -1.0 is not valid"),
        (edit(signature=signature(input_shape=[])), "signature: the input shape () is not possible"),
        (edit(signature=signature(input_shape=[1, 0])), "signature: the input shape (1, 0) is not possible"),
        (edit(signature=signature(num_outputs=2**40)), "are not numbers of outputs; allowed: 1 to 2147483647"),
        (edit(signature=signature(classes=["a", "b"])), "signature: 2 names of classes; allowed: "),
        (deep_json, "state.json: the file is truncated or corrupted"),
        (unknown_type, "meta.safetensors: not a safetensors file of torch's types"),
        (shutil.rmtree, "there is no such file or folder"),
        (
            lambda folder: (folder / "state.json").unlink(),
            "there is no checkpoint in it; allowed: a folder with state.json",
        ),
    ],
)
def test_damage_is_reported_in_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    save_steps(make_config(tmp_path), {1: None})
    folder = tmp_path / "run-1" / "step-00000001"
    damage(folder)
    with pytest.raises(UserError) as caught:
        checkpoint.load(folder)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_does_not_prevent_the_next_save(tmp_path: Path) -> None:
    config = make_config(tmp_path, keep_last=3)
    server = save_steps(config, {1: 0.9, 2: 0.5})
    cut_json(tmp_path / "run-1" / "step-00000001")
    save(config, 3, server.state_dict(), score=0.1)
    assert checkpoint.load(tmp_path / "run-1", "best").step == 2


def test_unknown_protocols_and_unwritable_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Protocol not known: nowhere"):
        checkpoint.load("nowhere://x")
    (tmp_path / "file").write_text("")
    config = make_config(tmp_path / "file")
    with pytest.raises(StoreError, match="the checkpoint cannot be written"):
        save(config, 1, make_server(config).state_dict())
    with pytest.raises(UserError, match="there is no checkpoint in it"):
        checkpoint.load(tmp_path / "file")


def test_messages_about_a_url_show_no_password() -> None:
    with pytest.raises(UserError, match=r"^http://me:\*\*\*@127\.0\.0\.1:9/run: the store is unavailable"):
        checkpoint.load("http://me:hunter2@127.0.0.1:9/run")


def test_a_run_name_cannot_contain_a_path() -> None:
    for name in ("..", "../x", "a/b", "/etc", ".hidden", ""):
        with pytest.raises(ValueError, match="is not a run name"):
            RunConfig(name=name)


def test_unknown_fields_of_the_same_format_are_ignored(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path), {1: 0.5})
    folder = tmp_path / "run-1" / "step-00000001"
    edit(metrics={"loss": 1.0})(folder)
    assert checkpoint.load(folder).score == 0.5


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path), {1: None})
    folder = tmp_path / "run-1" / "step-00000001"
    torch.save({"w": torch.zeros(1)}, folder / "meta.safetensors")
    with pytest.raises(UserError, match=r"meta\.safetensors"):
        checkpoint.load(folder)


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_commands_print_text(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path), {1: 0.9, 2: 0.1})
    run = str(tmp_path / "run-1")
    assert invoke("digest", run).strip() == checkpoint.load(run).digest
    assert invoke("digest", run, "--which", "best").strip() == checkpoint.load(run, "best").digest
    output = invoke("show", run)
    assert "score" in output and "config.outer.optimizer" in output and "abc" in output
    assert checkpoint.load(run).digest[:12] in invoke("list", str(tmp_path))


def test_commands_print_json(tmp_path: Path) -> None:
    save_steps(make_config(tmp_path), {1: 0.9, 2: 0.1})
    run = str(tmp_path / "run-1")
    loaded = checkpoint.load(run)
    last = {name: json.loads(invoke(name, run, "--json").splitlines()[-1]) for name in ("digest", "show", "list")}
    assert last["digest"] == {"checkpoint": loaded.path, "step": 2, "digest": loaded.digest}
    assert last["show"]["config"] == loaded.recorded
    assert (last["show"]["parameters"], last["show"]["score"]) == (17, 0.1)
    assert [(entry["step"], entry["best"]) for entry in last["list"]["checkpoints"]] == [(1, True), (2, False)]


def test_commands_raise_errors_to_the_main_command(tmp_path: Path) -> None:
    for name in ("digest", "show", "list"):
        result = CliRunner().invoke(app, [name, str(tmp_path / "nothing")])
        assert isinstance(result.exception, UserError)
