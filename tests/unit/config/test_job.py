"""Jobs as `FILE.py` and as `FILE.py:NAME`."""

from __future__ import annotations

from pathlib import Path

import pytest

from distmeta.config.load import load_config, split_source
from distmeta.core.errors import UserError

HEADER = "from distmeta.config import RunConfig\nfrom distmeta.methods import maml as imported\n"
FAMILY = f"""{HEADER}
from functools import partial

def _base(name: str) -> RunConfig:
    return RunConfig(name=name)

def first(name: str = "first") -> RunConfig:
    return _base(name)

def second() -> "RunConfig":
    return _base("second")

def with_argument(name: str) -> RunConfig:
    return _base(name)

def helper() -> int:
    return 3

third = partial(_base, "third")
"""
PLAIN = f"{HEADER}\ndef one():\n    return RunConfig(name='one')\n\ndef two():\n    return RunConfig(name='two')\n"
DELAYED = f"from __future__ import annotations\n{FAMILY}"
WHOLE = f"{HEADER}\ndef config():\n    return RunConfig(name='whole')\n"


def write(folder: Path, text: str, name: str = "family.py") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def fault(source: str) -> str:
    """The line that refuses a source."""
    with pytest.raises(UserError) as caught:
        load_config(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", [FAMILY, DELAYED])
@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_a_function_is_called_by_its_name(tmp_path: Path, text: str, name: str) -> None:
    config = load_config(f"{write(tmp_path, text)}:{name}", ["seed=3"])
    assert (config.name, config.seed) == (name, 3)


def test_config_is_the_default(tmp_path: Path) -> None:
    job = write(tmp_path, WHOLE + "\ndef other() -> RunConfig:\n    return RunConfig(name='other')\n")
    assert [load_config(job + name).name for name in ("", ":config", ":other")] == ["whole", "whole", "other"]


@pytest.mark.parametrize(
    ("text", "listed"), [(FAMILY, "first, second"), (DELAYED, "first, second"), (PLAIN, "one, two")]
)
@pytest.mark.parametrize("name", ["", ":"])
def test_without_a_name_and_without_config_the_functions_are_listed(
    tmp_path: Path, text: str, listed: str, name: str
) -> None:
    job = write(tmp_path, text)
    line = fault(job + name)
    assert line.startswith(f"{job}: defines no function config(), so that one must be named ({job}:NAME, ")
    assert line.endswith(f"; allowed: {listed}")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (FAMILY, "frist", "defines no function 'frist'; allowed: did you mean 'first'? (first, second)"),
        (FAMILY, "HEADER", "defines no function 'HEADER'; allowed: first, second"),
        (FAMILY, "a.b", "defines no function 'a.b'; allowed: first, second"),
        (WHOLE, "main", "defines no function 'main'; allowed: config"),
        ("x = 1\n", "x", "defines no function 'x'; allowed: def x() -> RunConfig"),
        (FAMILY, "with_argument", "with_argument() needs arguments (name); allowed: first, second"),
        (FAMILY, "helper", "helper() returned int; allowed: first, second"),
        (FAMILY, "imported", "imported() returned AlgorithmConfig; allowed: first, second"),
        (
            "def config(a, *, b, **c):\n    pass\n",
            "config",
            "config() needs arguments (a, b); allowed: a function with",
        ),
        ("def one():\n    return 1 / 0\n", "one", "family.py, line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_name_that_cannot_be_used(tmp_path: Path, text: str, name: str, expected: str) -> None:
    assert expected in fault(f"{write(tmp_path, text)}:{name}")


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_name_after_another_kind_of_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, '{"name": "x"}', f"run{suffix}")
    assert fault(f"{path}:maml") == f"{path}: ':maml' after a {suffix} file; allowed: FILE.py:NAME"


def test_a_missing_file_is_told_before_its_function(tmp_path: Path) -> None:
    write(tmp_path, FAMILY)
    assert "famly.py: no such file; allowed: did you mean 'family.py'?" in fault(str(tmp_path / "famly.py:first"))


@pytest.mark.parametrize("file", ["a:b.py", "folder:x/job.py", "job.py:old.py", "job.py:x/job.py"])
def test_a_path_may_contain_colons(tmp_path: Path, file: str) -> None:
    write(tmp_path, PLAIN, "job.py")
    job = write(tmp_path, WHOLE, file)
    assert load_config(job).name == "whole"
    assert load_config(f"{job}:config").name == "whole"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("job.py", ("job.py", None)),
        ("jobs/job.py:maml", ("jobs/job.py", "maml")),
        ("job.py:", ("job.py", "")),
        ("run.yaml:maml", ("run.yaml", "maml")),
        ("a:b.py", ("a:b.py", None)),
        ("a:b.py:c", ("a:b.py", "c")),
        ("job.py:c/d.py", ("job.py:c/d.py", None)),
        ("jobs:maml", ("jobs:maml", None)),
    ],
)
def test_split_source(source: str, expected: tuple[str, str | None]) -> None:
    file, name = split_source(source)
    assert (str(file), name) == expected
