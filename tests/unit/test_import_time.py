"""`import distmeta` is light: what it loads is checked, not how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import distmeta

HEAVY = {"deepspeed", "matplotlib", "mlflow", "numpy", "pyarrow", "pydantic", "ray", "torch"}


def loaded_by(statement: str) -> set[str]:
    """The heavy libraries in sys.modules of a fresh interpreter after `statement`."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_loads_nothing_heavy():
    assert loaded_by("import distmeta; dir(distmeta); distmeta.__version__") == set()


@pytest.mark.parametrize("statement", ["import distmeta; distmeta.RunConfig", "import distmeta.config.run"])
def test_the_configuration_needs_neither_torch_nor_ray(statement):
    assert loaded_by(statement) <= {"pydantic", "numpy"}


def test_the_process_that_talks_to_mlflow_needs_no_configuration():
    assert loaded_by("import distmeta.tracking.answer") == set()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "statement",
    [
        # Runs the package files of runtime/ and what they import.
        pytest.param("from distmeta.runtime.executor import Executor", marks=pytest.mark.slow),
        "import distmeta.program.program, distmeta.training.evaluate, distmeta.adapt.load, distmeta.training",
    ],
)
def test_ray_mlflow_and_deepspeed_are_loaded_only_when_used(statement):
    assert not loaded_by(statement) & {"ray", "mlflow", "deepspeed"}


@pytest.mark.parametrize("name", distmeta.__all__)
def test_every_public_name_resolves(name):
    assert getattr(distmeta, name) is not None
    assert name in dir(distmeta)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        distmeta.trane  # noqa: B018
