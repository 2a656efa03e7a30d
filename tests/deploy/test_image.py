"""The container image: what a parser of Dockerfiles makes of it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from .deployed import CLUSTER, ROOT

DOCKERFILE = CLUSTER / "image" / "Dockerfile"


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    """The instructions in order; the parser wants a file that it may write to."""
    copy = tmp_path / "Dockerfile"
    copy.write_bytes(DOCKERFILE.read_bytes())
    structure = DockerfileParser(str(copy)).structure
    return [(step["instruction"], step["value"]) for step in structure if step["instruction"] != "COMMENT"]


def stages(steps: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for instruction, value in steps:
        if instruction == "FROM":
            found[value.rpartition(" AS ")[2]] = []
        elif found:
            list(found.values())[-1].append((instruction, value))
    return found


def test_stages_and_users(steps: list[tuple[str, str]]) -> None:
    found = stages(steps)
    assert list(found) == ["build", "mlflow-build", "mlflow", "node"]  # the last is what a build gives
    for name in ("mlflow", "node"):
        assert ("USER", "1000:1000") in found[name]
        after = found[name][found[name].index(("USER", "1000:1000")) :]
        assert not [value for instruction, value in after if instruction in ("RUN", "COPY", "ADD")]
    assert not [value for instruction, value in steps if instruction == "ADD"]


def test_python_is_one_that_distmeta_allows(steps: list[tuple[str, str]]) -> None:
    (version,) = [value.partition("=")[2] for instruction, value in steps if value.startswith("PYTHON_VERSION=")]
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    lowest = required.removeprefix(">=")
    assert tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_everything_is_installed_within_the_constraints(steps: list[tuple[str, str]]) -> None:
    runs = [value for instruction, value in steps if instruction == "RUN" and "pip install" in value]
    assert len(runs) == 3 and all("-c constraints.txt" in run and "--no-cache-dir" in run for run in runs)
    assert sum("VARIANT" in run for run in runs) == 1


def test_shell_is_shell(steps: list[tuple[str, str]]) -> None:
    for instruction, value in steps:
        if instruction == "RUN":
            subprocess.run(["sh", "-n", "-c", value], check=True)


def test_what_is_copied_exists_and_is_sent_to_the_builder(steps: list[tuple[str, str]]) -> None:
    ignore = (CLUSTER / "image" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    copied = {
        word
        for instruction, value in steps
        if instruction == "COPY" and not value.startswith("--from")
        for word in value.split()[:-1]
    }
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((ROOT / word).exists() for word in copied)


def test_nodes_ask_for_tokens_and_no_secret_is_built_in(steps: list[tuple[str, str]]) -> None:
    variables = " ".join(value for instruction, value in stages(steps)["node"] if instruction == "ENV")
    assert "RAY_AUTH_MODE=token" in variables
    names = re.findall(r"(\w+)=", " ".join(value for instruction, value in steps if instruction in ("ENV", "ARG")))
    assert not [name for name in names if re.search(r"TOKEN|PASSWORD|SECRET", name)]
