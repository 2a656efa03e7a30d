"""Paths, files and URLs that cannot be used, for every command that takes one: one line, exit code 2, nothing lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from distmeta.cli import data, main
from distmeta.data import store as store_module
from distmeta.data.catalog import import_store

from .bad_input import Row, judge, write

LONG = "n" * 300
HEAD = ("--address", "http://127.0.0.1:9")
RUN = """
name: letters
tasks: {source: glyphs, way: 2, size: 16, queries: 2, eval_queries: 2}
model: {kind: conv4, filters: 2}
engine: {strategy: loop}
runtime: {executor: local, shard_size: 1}
train: {steps: 1, tasks_per_step: 1}
evaluation: {final_tasks: 0}
tracking: {kind: none}
"""


# --- inputs ---


def pictures(folder: Path, classes: int = 2, each: int = 2) -> Path:
    for number in range(classes * each):
        path = folder / f"class{number // each}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(path)
    return folder


def odd_places(folder: Path) -> None:
    """A file, a pipe, a broken link and a link to itself."""
    write(folder / "file", "x")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("missing/target")
    (folder / "loop").symlink_to("loop")


def command(*arguments: str) -> Callable[[Path], list[str]]:
    """A command beside odd places, pictures, a good configuration and a store."""

    def make(folder: Path) -> list[str]:
        odd_places(folder)
        pictures(folder / "pictures")
        write(folder / "run.yaml", RUN)
        import_store("images", folder / "pictures")
        return list(arguments)

    return make


def with_pipe(name: str, *arguments: str) -> Callable[[Path], list[str]]:
    """A command beside a pipe of this name."""

    def make(folder: Path) -> list[str]:
        made = command(*arguments)(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
        return made

    return make


def with_file(name: str, content: str | bytes, *arguments: str) -> Callable[[Path], list[str]]:
    """A command beside a file of this name."""

    def make(folder: Path) -> list[str]:
        made = command(*arguments)(folder)
        write(folder / name, content)
        return made

    return make


def sheet(path: str) -> Callable[[Path], list[str]]:
    return command("data", "inspect", "pictures", "--sheet", path)


def fetch(path: str) -> Callable[[Path], list[str]]:
    return command("data", "fetch", "banking77", "--to", path)


def start(path: str) -> Callable[[Path], list[str]]:
    return command("train", "run.yaml", "--set", f"checkpoint.path={path}")


def database(content: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """`distmeta ui` on a file, `runs.db`, that `content` writes."""

    def make(folder: Path) -> list[str]:
        content(folder / "runs.db")
        return ["ui", "--uri", "sqlite:///runs.db"]

    return make


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
    connection.close()


def truncated_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")
        connection.executemany("INSERT INTO experiments VALUES (?)", [("x" * 500,)] * 200)
    connection.close()
    path.write_bytes(path.read_bytes()[:20_000])


def replace(*options: str) -> Callable[[Path], list[str]]:
    """Import over a store that exists."""
    return command("data", "import", "images", "pictures", "--replace", *options)


ROWS = [
    # configurations and jobs
    Row("pipe for a configuration", with_pipe("a.yaml", "train", "a.yaml"), ("a.yaml: is a pipe, a device or a bro",)),
    Row("pipe for a job", with_pipe("a.py", "train", "a.py"), ("a.py: is a pipe, a device or a broken link",)),
    Row("unknown user", command("train", "~nouser/run.yaml"), ("~nouser/run.yaml: the home folder of '~nouser'",)),
    Row("unknown user of a job", command("train", "~nouser/run.py:small"), ("the home folder of '~nouser'",)),
    Row("long file name", command("train", f"{LONG}.yaml"), (f"{LONG}.yaml: no such file", "allowed: run.yaml")),
    Row("file for a folder", command("train", "file/run.yaml"), ("file/run.yaml: no such file",)),
    Row("URL of a configuration", command("train", "http://[::1"), ("a configuration of kind ''",)),
    Row(
        "large YAML", with_file("a.yaml", b"#" * (1 << 21), "train", "a.yaml"), ("a.yaml: has 2097152 bytes", "1048576")
    ),
    Row(
        "large JSON", with_file("a.json", b" " * (1 << 21), "train", "a.json"), ("a.json: has 2097152 bytes", "1048576")
    ),
    Row("large job", with_file("a.py", b"#" * (1 << 25), "train", "a.py"), ("a.py: has 33554432 bytes", "16777216")),
    Row("job with a NUL", with_file("a.py", "\0", "train", "a.py"), ("a.py: SyntaxError",)),
    Row(
        "configuration that is not text",
        with_file("a.yaml", b"\xff\xfe", "train", "a.yaml"),
        ("cannot be read", "utf-8"),
    ),
    # runs
    Row("runs in a file", start("file/runs"), ("checkpoint.path: ", "/file/runs: checkpoints cannot be written")),
    Row("runs in a pipe", start("pipe"), ("/pipe: checkpoints cannot be written",)),
    Row("runs in a broken link", start("dangling"), ("/dangling: checkpoints cannot be written",)),
    Row("runs of an unknown user", start("~nouser/runs"), ("checkpoint.path: ~nouser/runs: the home folder",)),
    Row("runs at no URL", start("http://[::1"), ("checkpoint.path: it cannot be parsed as a URL",)),
    Row(
        "runs behind a closed port",
        start("http://127.0.0.1:9/runs"),
        ("checkpoint.path: http://127.0.0.1:9/runs: the store is unavailable: Connect call failed", "that answers"),
    ),
    Row(
        "runs on a closed server",
        start("ftp://me:secret@127.0.0.1:9/runs"),
        ("checkpoint.path: ftp://me:***@127.0.0.1:9/runs: the store cannot be opened: Connection refused",),
    ),
    Row("runs of no protocol", start("nowhere://x"), ("checkpoint.path: nowhere://x: Protocol not known: nowhere",)),
    Row("runs without a package", start("lacking://x"), ("checkpoint.path: lacking://x: Install lacking",)),
    Row(
        "runs in an archive",
        start("zip://x"),
        ("checkpoint.path: zip://x: the store cannot be opened: Is a directory",),
    ),
    Row("runs in a text", start("data:,x"), ("checkpoint.path: ", "the store")),
    Row("runs below a long name", start(LONG), ("checkpoints cannot be written (File name too long)",)),
    Row(
        "tracking at no URL",
        command("train", "run.yaml", "--set", "tracking.uri=http://me:secret@[::1"),
        ("tracking.uri: it cannot be parsed as a URL; allowed: a path, or SCHEME://HOST:PORT/PATH",),
    ),
    Row(
        "tracking without a driver",
        command("train", "run.yaml", "--set", "tracking.kind=mlflow", "--set", "tracking.uri=mysql+lacking://me:a@h/x"),
        ("tracking.uri: the store mysql+lacking://me:***@h/x cannot be used", "lacking", "allowed: a running MLflow"),
    ),
    Row(
        "long experiment",
        command("train", "run.yaml", "--set", f"tracking.experiment={LONG}"),
        ("tracking.experiment: 'nnn", "is not valid; allowed: at most 250 characters"),
    ),
    Row("long run name", command("train", "run.yaml", "--set", f"name={LONG}"), ("is not a run name", "at most 128")),
    Row(
        "long store name",
        command("train", "run.yaml", "--set", "tasks.source=images", "--set", f"tasks.store={LONG}"),
        (f"no data '{LONG}'",),
    ),
    Row(
        "store of an unknown user",
        command("train", "run.yaml", "--set", "tasks.source=images", "--set", "tasks.store=~nouser"),
        ("the home folder",),
    ),
    # importing
    Row("import of a pipe", command("data", "import", "images", "pipe"), ("pipe: no such folder",)),
    Row(
        "import of a broken link",
        command("data", "import", "images", "dangling"),
        ("dangling: no such file or folder",),
    ),
    Row("import of a circle", command("data", "import", "images", "loop"), ("loop: no such file or folder",)),
    Row("import of a long name", command("data", "import", "images", LONG), (f"{LONG}: no such file or folder",)),
    Row(
        "import of an unknown user", command("data", "import", "images", "~nouser/x"), ("the home folder of '~nouser'",)
    ),
    Row("table in a pipe", with_pipe("a.csv", "data", "import", "table", "a.csv"), ("a.csv: is not a file",)),
    Row(
        "zip in a pipe",
        with_pipe("raw/images_background.zip", "data", "import", "omniglot", "raw"),
        ("raw/images_background.zip: no such file",),
    ),
    Row(
        "classes in a pipe",
        with_pipe("raw/classes.json", "data", "import", "cifar_fs", "raw"),
        ("raw/classes.json: is a pipe or a device",),
    ),
    Row("name of a store", command("data", "import", "images", "pictures", "--name", LONG), ("--name", "at most 128")),
    Row("seed of 65 bits", replace("--seed", str(2**64)), ("'--seed'", "18446744073709551615")),
    Row(
        "NaN among shares", replace("--fractions", "nan,0.5,0.5"), ("--fractions: fractions [nan, 0.5, 0.5]", "up to 1")
    ),
    Row("infinite shares", replace("--fractions", "inf,0,0"), ("--fractions: fractions [inf, 0.0, 0.0]", "up to 1")),
    Row("replacing by too few", replace("--min-examples", "5"), ("class 'class0' has 2 examples, 5 are needed",)),
    # looking at stores
    Row("sheet in a file", sheet("file/sheet.png"), ("file: the folder cannot be made",)),
    Row("sheet over a folder", sheet("pictures"), ("pictures: cannot be written: Is a directory",)),
    Row("sheet in a pipe", sheet("pipe"), ("pipe: cannot be written",)),
    Row("sheet in a circle", sheet("loop"), ("loop: cannot be written: Too many levels of symbolic links",)),
    Row("sheet on a full disk", sheet("/dev/full"), ("/dev/full: cannot be written: No space left on device",)),
    Row("sheet of a long name", sheet(f"{LONG}.png"), ("cannot be written: File name too long",)),
    Row("store of a long name", command("data", "inspect", LONG), (f"no data '{LONG}'",)),
    Row("URL of a store", command("data", "inspect", "http://[::1"), ("http://[::1: is not a class store",)),
    Row("manifest in a pipe", with_pipe("s/manifest.json", "data", "inspect", "./s"), ("./s: is not a class store",)),
    Row(
        "deep manifest",
        with_file("s/manifest.json", b"[" * 100_000, "data", "inspect", "./s"),
        ("s/manifest.json: the manifest is not JSON",),
    ),
    Row(
        "digits in a manifest",
        with_file("s/manifest.json", b'{"version": ' + b"9" * 5000 + b"}", "data", "inspect", "./s"),
        ("s/manifest.json: the manifest is not JSON",),
    ),
    # downloading
    Row("download into a file", fetch("file"), ("file: the folder cannot be made",)),
    Row("download below a file", fetch("file/x"), ("file/x: the folder cannot be made",)),
    Row("download into a circle", fetch("loop"), ("loop: the folder cannot be made",)),
    Row("download to a long name", fetch(LONG), ("the folder cannot be made: File name too long",)),
    # jobs
    Row("first job in a file", command("jobs", "init", "file"), ("file: cannot be made",)),
    Row("first job over a pipe", with_pipe("j/first_job.py", "jobs", "init", "j"), ("j/first_job.py: exists already",)),
    Row(
        "first job into a pipe",
        with_pipe("j/first_job.py", "jobs", "init", "j", "--force"),
        ("j/first_job.py: cannot be written",),
    ),
    Row("folder to send", command("submit", "run.yaml", "--working-dir", LONG, *HEAD), ("no such folder",)),
    Row("URL of a cluster", command("jobs", "list", "--address", "http://[::1"), ("'http://[::1' is no job server",)),
    # the browser
    Row("no interface", command("ui", "--host", ""), ("--host: is empty, which would be every interface", "127.0.0.1")),
    Row("blank interface", command("ui", "--host", " "), ("--host: is empty",)),
    Row("not a database", database(lambda path: path.write_bytes(b"junk" * 500)), ("runs.db cannot be read", "--uri")),
    Row("other database", database(other_database), ("runs.db is not a database of MLflow",)),
    Row("truncated database", database(truncated_database), ("runs.db",)),
    Row("folder for a database", database(lambda path: path.mkdir()), ("there is no file", "runs.db")),
    Row("pipe for a database", database(os.mkfifo), ("there is no file", "runs.db")),
    Row("database in memory", command("ui", "--uri", "sqlite://"), ("'sqlite://' is not a store with runs",)),
    Row("runs in files", command("ui", "--uri", "mlruns"), ("'mlruns' is not a store with runs", "sqlite:///FILE")),
    Row(
        "database without a driver",
        command("ui", "--uri", "mssql+pymssql://me:secret@127.0.0.1:9/runs"),
        ("--uri: the store mssql+pymssql://me:***@127.0.0.1:9/runs cannot be used", "driver", "sqlite:///FILE"),
    ),
    Row(
        "database behind no port",
        command("ui", "--uri", "postgresql://me:secret@127.0.0.1:port/runs"),
        ("--uri: the store postgresql://me:***@127.0.0.1:port/runs cannot be used",),
    ),
    Row("unknown driver", command("ui", "--uri", "mysql+nothing://h/x"), ("--uri: the store", "mysql.nothing")),
    Row("database at no URL", command("ui", "--uri", "mysql://[::1"), ("'mysql://[::1' is not a store with runs",)),
]


def labelled(*arguments: str) -> Callable[[Path], list[str]]:
    """`distmeta adapt` with a trained learner, and these further arguments; the last ones win."""

    def make(folder: Path) -> list[str]:
        odd_places(folder)
        pictures(folder / "support")
        pictures(folder / "pictures")
        shutil.copy(folder / "support" / "class0" / "0.png", write(folder / "query" / "0.png", b""))
        return ["adapt", "runs/letters", "--support", "support", "--query", "query", *arguments]

    return make


def circle(name: str) -> Callable[[Path], list[str]]:
    """`distmeta checkpoint show` of a checkpoint in which a file is a link to itself."""

    def make(folder: Path) -> list[str]:
        for file in folder.glob(f"runs/letters/*/{name}"):
            file.unlink()
            file.symlink_to(name)
        return ["checkpoint", "show", "runs/letters"]

    return make


ROWS_ON_RUNS = [
    Row(
        "weights in a circle", circle("meta.safetensors"), ("meta.safetensors: the file cannot be read (FileNotFound",)
    ),
    Row("support in a pipe", labelled("--support", "pipe"), ("pipe: no such folder",)),
    Row("support of a long name", labelled("--support", LONG), (f"{LONG}: no such folder",)),
    Row("support in a circle", labelled("--support", "loop"), ("loop: no such folder",)),
    Row("query in a file", labelled("--query", "file/x"), ("file/x: no such folder",)),
    Row("query of a long name", labelled("--query", LONG), (f"{LONG}: no such folder",)),
    Row("labels into a folder", labelled("--out", "pictures"), ("pictures: is a folder",)),
    Row("labels into a pipe", labelled("--out", "pipe"), ("pipe: cannot be written",)),
    Row("labels below a file", labelled("--out", "file/x"), ("file: no such folder",)),
    Row("labels into a circle", labelled("--out", "loop"), ("loop: cannot be written",)),
    Row("labels on a full disk", labelled("--out", "/dev/full"), ("/dev/full: cannot be written: No space left",)),
    Row("checkpoint of a long name", command("checkpoint", "show", LONG), ("there is no such file or folder",)),
    Row("checkpoint in a circle", command("checkpoint", "list", "loop"), ("there is no such file or folder",)),
    Row("checkpoint in a file", command("checkpoint", "digest", "file"), ("there is no checkpoint in it",)),
    Row("checkpoint at no URL", command("evaluate", "http://[::1"), ("there is no such file or folder",)),
    Row("seed of 65 bits", command("evaluate", "runs/letters", "--seed", str(2**64)), ("'--seed'", "1844674407370955")),
    Row("too many tasks", command("evaluate", "runs/letters", "--tasks", "1000001"), ("'--tasks'", "1000000")),
]

# What `checkpoint.path` and the commands that read checkpoints say about places where there is nothing to be read.
URLS = {
    "http://127.0.0.1:9/runs": "http://127.0.0.1:9/runs: the store is unavailable: Connect call failed",
    "ftp://127.0.0.1:9/runs": "ftp://127.0.0.1:9/runs: the store cannot be opened: Connection refused",
    "memory://nowhere": "memory:///nowhere: there is no such file or folder",
    "nowhere://x": "nowhere://x: Protocol not known: nowhere",
    "lacking://x": "lacking://x: Install lacking",
    "ftp:///runs": "ftp:///runs: the URL names no host",
    "zip://x": "zip://x: the store cannot be opened: Is a directory",
}


def of_checkpoint(words: tuple[str, ...], url: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        made = labelled()(folder) if words == ("adapt",) else [*words, url]
        return [url if argument == "runs/letters" else argument for argument in made]

    return make


WITHOUT_GPU = [
    Row(
        "training",
        command("train", "run.yaml", "--set", "runtime.device=cuda:1"),
        ("runtime.device: 'cuda:1' is not there: this process has no GPU; allowed: cpu",),
    ),
    Row(
        "training by workers",
        command("train", "run.yaml", "--set", "runtime.executor=ray", "--set", "runtime.device=cuda"),
        ("runtime.device: 'cuda' is not there: worker ", " has no GPU; allowed: cpu, or runtime.gpus_per_worker=1"),
    ),
    Row(
        "scoring",
        command("evaluate", "runs/letters", "--set", "runtime.device=cuda"),
        ("runtime.device: 'cuda' is not there: this process has no GPU; allowed: cpu",),
    ),
    Row(
        "scoring by workers",
        command("evaluate", "runs/letters", "--set", "runtime.executor=ray", "--set", "runtime.device=cuda"),
        ("runtime.device: 'cuda' is not there: worker ", " has no GPU; allowed: cpu, or runtime.gpus_per_worker=1"),
    ),
]


# --- tests ---


@pytest.fixture(autouse=True)
def lacking_package() -> None:
    """A file system whose package is not installed."""
    if "lacking" not in fsspec.available_protocols():
        fsspec.register_implementation("lacking", "lacking_package.FileSystem", errtxt="Install lacking_package")


ON_RUNS = pytest.mark.xdist_group("trained_run")
"""One process trains the run, when tests are spread over several."""


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.raises(SystemExit) as ended:
        path = write(folder / "run.yaml", RUN)
        main(["train", str(path), "--set", f"checkpoint.path={folder / 'runs'}", "--json"])
    assert ended.value.code == 0
    return folder / "runs"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_line_and_nothing_lost(row: Row, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(row, here, capsys)


@ON_RUNS
@pytest.mark.timeout(60)
@pytest.mark.parametrize("row", ROWS_ON_RUNS, ids=lambda row: row.name)
def test_one_line_about_a_run(row: Row, here: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained_run, here / "runs")
    capsys.readouterr()
    judge(row, here, capsys)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "words", [("evaluate",), ("adapt",), ("checkpoint", "show"), ("checkpoint", "list")], ids=" ".join
)
def test_one_line_about_a_store(
    words: tuple[str, ...], url: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(Row(url, of_checkpoint(words, url), (URLS[url], "allowed: ")), here, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@ON_RUNS
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=pytest.mark.slow if "workers" in row.name else ()) for row in WITHOUT_GPU],
)
def test_one_line_about_a_device(
    row: Row, here: Path, trained_run: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if "workers" in row.name:
        request.getfixturevalue("ray_cluster")
    if row.name.startswith("scoring"):
        shutil.copytree(trained_run, here / "runs")
    capsys.readouterr()
    judge(row, here, capsys)


@pytest.mark.parametrize("home", ["file", "file/home", "/proc/home", "loop", "/dev/full"])
def test_a_home_that_cannot_be_written(
    home: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What needs no data goes on."""
    odd_places(here)
    pictures(here / "pictures")
    monkeypatch.setenv("DISTMETA_HOME", home if home.startswith("/") else str(here / home))
    assert code_of("data", "list") == 0
    assert code_of("train", str(write(here / "run.yaml", RUN)), "--dry-run") == 0
    assert code_of("train", "run.yaml", "--json") == 0
    capsys.readouterr()
    for arguments in (["import", "images", "pictures"], ["fetch", "banking77"], ["inspect", "pictures"]):
        assert code_of("data", *arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not refuse root")
def test_what_may_not_be_read_or_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(here / "pictures")
    write(here / "run.yaml", "name: run\n").chmod(0)
    (here / "closed").mkdir(mode=0)
    store = import_store("images", here / "pictures")
    store.path.chmod(0)
    for arguments in (
        ["train", "run.yaml"],
        ["checkpoint", "show", "closed"],
        ["evaluate", "closed"],
        ["data", "inspect", "pictures"],
        ["data", "import", "images", "pictures", "--replace"],
        ["data", "inspect", str(store.path)],
        ["submit", "run.yaml", *HEAD],
        ["data", "import", "images", "closed"],
        ["data", "fetch", "banking77", "--to", "closed/raw"],
        ["jobs", "init", "closed"],
    ):
        assert code_of(*arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_failed_import_leaves_the_store(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = import_store("images", pictures(here / "pictures"))
    before = {path.name: path.read_bytes() for path in store.path.iterdir()}

    def full(path: Path, column: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store_module, "_write_arrow", full)
    assert code_of("data", "import", "images", "pictures", "--replace") == 2
    assert "the store cannot be written: No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in store.path.iterdir()} == before
    assert [path.name for path in store.path.parent.iterdir()] == ["pictures"]


def test_an_unreadable_store_does_not_hide_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = import_store("images", pictures(here / "pictures"))
    write(good.path.parent / "damaged" / "manifest.json", "{")
    os.mkfifo(shutil.copytree(good.path, good.path.parent / "pipe") / "more")
    (good.path.parent / "pipe" / "examples.arrow").unlink()
    assert code_of("data", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [store["name"] for store in listed["stores"]] == ["pictures"]
    assert [store["name"] for store in listed["unreadable"]] == ["damaged", "pipe"]
    assert "the manifest is not JSON" in listed["unreadable"][0]["reason"]
    assert code_of("data", "list") == 0
    output = capsys.readouterr().out
    assert "unreadable: damaged: " in output
    assert "pictures" in output


def test_a_failed_download_leaves_the_users_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (here / "mine" / "raw").mkdir(parents=True)
    assert code_of("data", "fetch", "banking77", "--to", "mine/raw") == 2
    assert code_of("data", "fetch", "banking77", "--to", "mine/new/raw") == 2
    assert "cannot be downloaded" in capsys.readouterr().err
    assert [path.name for path in (here / "mine").iterdir()] == ["raw"]


@ON_RUNS
def test_names_that_are_not_text(here: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    pictures(here / "support")
    shutil.copytree(here / "support" / "class0", here / "query")
    (here / "query" / "0.png").rename(here / "query" / name)
    arguments = ["adapt", str(trained_run / "letters"), "--support", "support", "--query", "query", "--out", "o.csv"]
    with io.TextIOWrapper(io.BytesIO(), "utf-8") as stdout:  # unlike pytest's, it refuses what it cannot encode
        monkeypatch.setattr(sys, "stdout", stdout)
        assert code_of(*arguments) == 0
        assert b"caf\\udce9.png" in stdout.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"caf\xe9.png,class" in (here / "o.csv").read_bytes()


def test_output_that_cannot_be_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert code_of("data", "list") == 1
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_memory_that_is_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def allocate() -> list[str]:
        raise MemoryError("Unable to allocate 7 TiB")

    monkeypatch.setattr(data, "list_stores", allocate)
    assert code_of("data", "list") == 1
    assert capsys.readouterr().err == "error: not enough memory: Unable to allocate 7 TiB\n"


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code
