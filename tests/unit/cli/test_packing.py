"""What is sent to a cluster, and what stays here."""

from __future__ import annotations

import os
import random
import subprocess
import zipfile
from pathlib import Path

import pytest

from distmeta.cli import packing
from distmeta.cli.packing import collect, write_package
from distmeta.core.errors import UserError

SENT = ["jobs/waves.py", "notes/data/table.csv", "pictures/one.png", "run.yaml"]
KEPT = [
    ".env",
    ".git/config",
    ".venv/bin/python",
    "data/omniglot/images_background.zip",
    "jobs/__pycache__/waves.cpython-311.pyc",
    "mlartifacts/1/config.yaml",
    "mlflow.db",
    "mlflow.db-wal",
    "mlruns/0/meta.yaml",
    "my.egg-info/PKG-INFO",
    "photos/raw.tar.gz",
    "results/step-00000001/state.json",
    "runs/waves/step-00000001/state.json",
    "somewhere/examples.arrow",
    "stores/photos/manifest.json",
    "venv/bin/python",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with everything that gathers in one."""
    for name in (*SENT, *KEPT):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "work"


def names(folder: Path, **options: object) -> list[str]:
    """What of the folder is sent; not distmeta's own files."""
    files = collect(folder, **options).files  # type: ignore[arg-type]
    return [name for name, path in files.items() if path.is_relative_to(folder)]


def test_data_stays_here(folder: Path) -> None:
    assert names(folder, keep_out=[folder / "results"]) == SENT
    assert names(folder, keep_out=[folder / "results"], excludes=["*.csv", "pictures/*"]) == [SENT[0], SENT[3]]


def test_what_git_ignores_stays_here(folder: Path) -> None:
    (folder / ".git" / "config").unlink()
    (folder / ".gitignore").write_text("/results/\nsecret*\n")
    (folder / "jobs" / "secret.txt").write_text("x")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    assert names(folder) == SENT
    assert names(folder / "jobs") == ["waves.py"]


def test_a_folder_that_git_ignores_as_a_whole_is_sent(folder: Path) -> None:
    (folder / ".git" / "config").unlink()
    (folder / ".gitignore").write_text("/notes/\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / "notes" / "run.yaml").write_text("x")
    assert names(folder / "notes") == ["run.yaml"]  # and its `data` is data


def test_large_files_stay_here_and_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LARGE_FILE_BYTES", 100)
    (folder / "weights.bin").write_bytes(bytes(101))
    found = collect(folder)
    assert found.too_large == ("weights.bin",)
    assert "weights.bin" not in found.files


def test_links_to_folders_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "large.csv").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert not [name for name in collect(folder).files if name.startswith("linked")]


def test_links_to_what_is_not_sent_stay_here_and_are_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    (folder / "to-outside.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "to-outside.yaml").symlink_to(Path("..") / "secret.txt")
    (folder / "to-data.txt").symlink_to("data/omniglot/images_background.zip")
    (folder / "to-hidden.txt").symlink_to(".env")
    (folder / "to-results.txt").symlink_to("results/step-00000001/state.json")
    (folder / "to-run.yaml").symlink_to("run.yaml")
    (folder / "to-itself.txt").symlink_to("to-itself.txt")
    (folder / "to-nothing.txt").symlink_to("nothing.txt")
    found = collect(folder, keep_out=[folder / "results"])
    assert found.links == (
        "to-data.txt",
        "to-hidden.txt",
        "to-outside.txt",
        "to-outside.yaml",
        "to-results.txt",
    )
    assert names(folder, keep_out=[folder / "results"]) == [*SENT, "to-run.yaml"]
    with pytest.raises(UserError, match=r"to-outside\.yaml: is not below"):
        found.name_of(str(folder / "to-outside.yaml"))


def test_a_name_that_no_zip_can_hold_is_refused(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.csv")).write_text("x")
    with pytest.raises(UserError, match=r"work: the name 'caf\\udce9.csv' is not UTF-8; allowed: --exclude PATTERN"):
        collect(folder)
    assert "run.yaml" in collect(folder, excludes=["caf*"]).files


def test_the_package_goes_along_when_it_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = folder.parent / "checkout" / "distmeta"
    monkeypatch.setattr(packing, "_PACKAGE", checkout)
    checkout.mkdir(parents=True)
    (checkout / "train.py").write_text("x")
    (checkout / "__pycache__").mkdir()
    (checkout / "__pycache__" / "train.pyc").write_text("x")
    assert [name for name in collect(folder).files if name.startswith("distmeta/")] == ["distmeta/train.py"]
    monkeypatch.setattr(packing, "_PACKAGE", Path("/usr/lib/python3/dist-packages/distmeta"))
    assert not [name for name in collect(folder).files if name.startswith("distmeta/")]


def test_the_same_files_make_the_same_package(folder: Path, tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_package(collect(folder), tmp_path / name)
        (folder / "run.yaml").touch()
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read("run.yaml") == b"run.yaml"
        assert "distmeta/core/errors.py" in archive.namelist()


def test_a_package_that_ray_would_refuse_is_refused_here(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MAX_PACKAGE_BYTES", 1 << 20)
    (folder / "noise.bin").write_bytes(random.Random(0).randbytes(2 << 20))
    with pytest.raises(UserError, match=r"packs to more than 1 MiB; the largest of \d+ files: noise.bin \(2.0 MiB\)"):
        write_package(collect(folder), tmp_path / "package.zip")
