"""What README and manifests say of distmeta is so: commands, fields, files and variables. And nothing is secret."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer.main

from distmeta.cli.app import build_app
from distmeta.config import RunConfig
from distmeta.config.load import load_config

from .deployed import CLUSTER, ROOT, read_documents, text_files

README = (CLUSTER / "README.md").read_text()
SCRIPT = (CLUSTER / "local.sh").read_text()


def in_files(pattern: str) -> list[tuple[str, str]]:
    """The file and the first group of every match in `cluster/`."""
    return [
        (path.name, match) for path in text_files() for match in re.findall(pattern, path.read_text(), re.MULTILINE)
    ]


COMMANDS = sorted(set(in_files(r"^(?:#|`| )*(?:env [^&\n]*)?(distmeta [a-z]+[^`#|\n]*)")))


def test_there_are_commands_to_check() -> None:
    assert any(command.startswith("distmeta submit jobs/sinusoid.py:maml") for _, command in COMMANDS)
    assert any(command.startswith("distmeta jobs list") for _, command in COMMANDS)


@pytest.mark.parametrize(("file", "command"), COMMANDS)
def test_commands_and_their_options_exist(file: str, command: str) -> None:
    _, *words = shlex.split(command.replace("$RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"))
    group: Any = typer.main.get_command(build_app())
    while words and words[0] in getattr(group, "commands", {}):
        group = group.commands[words.pop(0)]
    assert not getattr(group, "commands", {}), f"{file}: {command}"
    known = {option for parameter in group.params for option in parameter.opts}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_overrides_fit_the_jobs_that_they_are_given_to() -> None:
    texts = [README, *(document["spec"].get("entrypoint", "") for document in read_documents("kubernetes/rayjob.yaml"))]
    checked = 0
    for text in texts:
        for file, name, rest in re.findall(r"(jobs/\w+\.py)[: ](\w+)((?: +--?[\w.=-]+(?: [\w.=-]+)?)*)", text):
            load_config(f"{ROOT / file}:{name}", re.findall(r"--set ([\w.]+=[^\s`]+)", rest))
            checked += 1
    assert checked >= 4
    loose = re.findall(r"--set ([\w.]+=[\w.]+)", README)
    assert load_config(str(ROOT / "jobs/sinusoid.py:maml"), loose)


def test_fields_that_are_named_exist() -> None:
    sections = "|".join(RunConfig.model_fields)
    named = set(re.findall(rf"`((?:{sections})(?:\.\w+)+)[=`]", README))
    assert {"runtime.workers", "runtime.tolerance.heartbeat_timeout_s"} <= named
    for name in named:
        section: Any = RunConfig
        for field in name.split("."):
            assert field in section.model_fields, name
            section = section.model_fields[field].annotation


def test_files_that_are_named_exist() -> None:
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    paths = re.findall(r"\b((?:cluster|jobs)/[\w/.-]+\.\w+)", README)
    assert links and paths
    assert all((CLUSTER / link).is_file() for link in links)
    assert all((ROOT / path).is_file() for path in paths)


def test_links_to_headings_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_variables_of_the_head_are_explained() -> None:
    set_somewhere = {
        name for _, name in in_files(r"\b(DISTMETA_(?:HOME|RUNS|DATA)|MLFLOW_TRACKING_URI|RAY_AUTH_\w+)\b")
    }
    table = README[README.index("## Variables on the head") : README.index("## When something fails")]
    assert set_somewhere <= set(re.findall(r"[A-Z]+_\w+", table))
    assert {name for _, name in in_files(r"\b(DISTMETA_[A-Z]+)\b")} <= {
        *re.findall(r"DISTMETA_[A-Z]+", table),
        "DISTMETA_CLUSTER",  # local.sh's mark on its own processes
    }


def test_nothing_secret_is_written_down() -> None:
    passwords = in_files(r"://[^\s:/\"']+:([^\s@/\"']+)@")
    assert passwords and all(re.match(r"\$\$?password$|<password>$", password) for _, password in passwords)
    assert in_files(r"\b([0-9a-f]{32,})\b") == []
    assert in_files(r"(AKIA[0-9A-Z]{16}|-----BEGIN|ghp_\w{20})") == []
