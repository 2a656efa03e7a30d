"""Who may import whom, read from the source with `ast`, and that no pickle is ever loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A unit is a folder right below distmeta/. It may import the units of the layers above its own line, and those beside
# it as long as no cycle arises, except that peers know nothing of each other.
LAYERS = (
    ("core",),
    ("config",),
    ("data", "models", "server", "tracking"),
    ("tasks",),
    ("methods",),
    ("engine",),
    ("program", "analysis"),
    ("checkpoint",),
    ("runtime",),
    ("adapt", "optim", "training"),
    ("cli",),
    ("__main__",),
)
PEERS = frozenset({"data", "models", "server", "tracking"})
LEVEL = {unit: level for level, layer in enumerate(LAYERS) for unit in layer}

# Usable where torch is not loaded: they import only each other.
TORCH_FREE = (
    "core.code",
    "core.errors",
    "core.files",
    "core.logs",
    "core.paths",
    "core.seeding",
    "config",
    "data",
    "methods.presets",
)
# MLflow runs this file as a script wherever the model is served, with the whole package installed.
SCRIPTS = frozenset({"distmeta/adapt/pyfunc_model.py"})

DEEPSPEED_FILES = frozenset({"distmeta/models/petl/partition.py"})

PICKLE_MODULES = frozenset({"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"})
UNSAFE_LOADS = frozenset(
    {"torch.load", "torch.jit.load", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"}
)
_LAST_NAMES = {name.rpartition(".")[2] for name in UNSAFE_LOADS}


@dataclass(frozen=True)
class Import:
    """One import: `target` is a module, or `module.name` for a name taken out of another library."""

    file: str
    line: int
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def module_files(root: Path) -> dict[str, Path]:
    files = {}
    for path in sorted((root / "distmeta").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def unit_of(module: str) -> str | None:
    """The unit that a module belongs to; None for the package itself, whose names are looked up lazily."""
    parts = module.split(".")[1:]
    return parts[0] if parts else None


def torch_free(module: str) -> bool:
    """Whether a module, or a module of `distmeta` that an import names, is one of `TORCH_FREE`."""
    path = module.removeprefix("distmeta.")
    return any(path == free or path.startswith(f"{free}.") for free in TORCH_FREE)


def tree_of(path: Path) -> ast.Module:
    """The syntax of a file, read once however many checks look at it."""
    return _parsed(path.read_text(encoding="utf-8"))


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def imports_of(root: Path) -> Iterator[Import]:
    """Every import of every module, also those inside functions and the literal ones through importlib."""
    files = module_files(root)
    for source, path in files.items():
        file = path.relative_to(root).as_posix()
        package = source if path.name == "__init__.py" else source.rpartition(".")[0]
        for node in ast.walk(tree_of(path)):
            for target in _targets(node, package, files):
                yield Import(file, node.lineno, source, target)  # type: ignore[attr-defined]


def _targets(node: ast.AST, package: str, modules: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            inside = base.split(".")[0] == "distmeta"
            yield base if inside and base != "distmeta" and full not in modules else full
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value


def layering_faults(root: Path) -> list[str]:
    modules = module_files(root)
    units = {unit for module in modules if (unit := unit_of(module))}
    faults = [f"distmeta/{unit} has no place in LAYERS" for unit in sorted(units - set(LEVEL))]
    beside: dict[str, set[str]] = {}
    for found in imports_of(root):
        source, target = unit_of(found.source), unit_of(found.target)
        if not found.target.startswith("distmeta") or found.file in SCRIPTS or source not in LEVEL:
            if found.target.split(".")[0] == "jobs":
                faults.append(f"{found}: the package knows no job")
            continue
        if target == "__version__":
            continue
        if target not in LEVEL:
            faults.append(f"{found}: import it from the module that defines it")
        elif torch_free(found.source) and not torch_free(found.target):
            faults.append(f"{found}: {found.source} stays free of torch, {found.target} is not")
        elif source == target:
            continue
        elif LEVEL[target] > LEVEL[source]:
            faults.append(f"{found}: {target} comes after {source}")
        elif {source, target} <= PEERS:
            faults.append(f"{found}: {source} and {target} are peers")
        elif LEVEL[target] == LEVEL[source]:
            beside.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(beside).prepare()
    except CycleError as error:
        faults.append(f"a cycle of imports: {' -> '.join(error.args[1])}")
    return faults


def library_faults(root: Path) -> list[str]:
    faults = []
    for found in imports_of(root):
        library, unit = found.target.split(".")[0], unit_of(found.source)
        allowed = {
            "ray": found.file.startswith("distmeta/runtime/ray/") or found.file == "distmeta/cli/submit.py",
            "mlflow": unit == "tracking" or found.file in SCRIPTS,
            "deepspeed": found.file in DEEPSPEED_FILES,
            "transformers": found.file.startswith("distmeta/models/petl/"),
            "tokenizers": found.file.startswith("distmeta/models/petl/"),
            "peft": found.file.startswith("distmeta/models/petl/"),
            "torch": not torch_free(found.source),
        }
        if found.file == "distmeta/__init__.py":  # loaded with every part of the package
            allowed = dict.fromkeys(allowed, False)
        if not allowed.get(library, True):
            faults.append(f"{found}: not the place for {library}")
    return faults


def pickle_faults(root: Path) -> list[str]:
    faults = [
        f"{found}: no pickle is ever loaded"
        for found in imports_of(root)
        if found.target.split(".")[0] in PICKLE_MODULES or found.target in UNSAFE_LOADS
    ]
    for path in module_files(root).values():
        file = path.relative_to(root).as_posix()
        tree = tree_of(path)
        safe = _safe_yaml_loads(tree)
        names = {
            alias.asname: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.asname
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in _LAST_NAMES and node not in safe:
                first, dot, rest = ast.unparse(node).partition(".")
                if names.get(first, first) + dot + rest in UNSAFE_LOADS:
                    faults.append(f"{file}:{node.lineno} uses {ast.unparse(node)}: no pickle is ever loaded")
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                faults.append(f"{file}:{node.lineno} allows pickle")
    return faults


def _safe_yaml_loads(tree: ast.Module) -> set[ast.AST]:
    """The `yaml.load` of every call whose loader is the safe one, or a class of the same file derived from it alone."""
    loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.bases and {ast.unparse(base) for base in node.bases} <= loaders:
            loaders.add(node.name)
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load")
    return {call.func for call in calls if len(call.args) == 2 and ast.unparse(call.args[1]) in loaders}


@pytest.mark.parametrize("check", [layering_faults, library_faults, pickle_faults])
def test_package(check):
    assert check(ROOT) == []


@pytest.mark.parametrize(
    ("check", "file", "source", "fault"),
    [
        (layering_faults, "models/a.py", "from distmeta.training import run", "training comes after models"),
        (layering_faults, "models/a.py", "def f():\n    import distmeta.training", "training comes after models"),
        (layering_faults, "models/a.py", "from ..tasks import base", "tasks comes after models"),
        (layering_faults, "models/a.py", "from distmeta import tasks", "tasks comes after models"),
        (layering_faults, "models/a.py", "from distmeta import RunConfig", "import it from the module"),
        (
            layering_faults,
            "models/a.py",
            "import importlib\nimportlib.import_module('distmeta.cli')",
            "cli comes after",
        ),
        (layering_faults, "models/a.py", "import distmeta.data.b", "are peers"),
        (layering_faults, "models/a.py", "import jobs.demo", "knows no job"),
        (layering_faults, "config/a.py", "from distmeta.core.types import Params", "stays free of torch"),
        (layering_faults, "core/seeding.py", "import distmeta.core.types", "stays free of torch"),
        (layering_faults, "adapt/a.py", "import distmeta.training.a", "a cycle of imports"),
        (layering_faults, "extras.py", "", "has no place in LAYERS"),
        (library_faults, "training/a.py", "import ray", "not the place for ray"),
        (library_faults, "runtime/executor.py", "import ray", "not the place for ray"),
        (library_faults, "cli/ui.py", "from mlflow import server", "not the place for mlflow"),
        (library_faults, "models/big.py", "import deepspeed.comm", "not the place for deepspeed"),
        (library_faults, "tasks/a.py", "def f():\n    import tokenizers", "not the place for tokenizers"),
        (library_faults, "data/b.py", "def f():\n    from torch import nn", "not the place for torch"),
        (library_faults, "__init__.py", "import torch", "not the place for torch"),
        (pickle_faults, "training/a.py", "import pickle", "no pickle"),
        (pickle_faults, "training/a.py", "from torch import load", "no pickle"),
        (pickle_faults, "training/a.py", "import torch as t\nt.load('x')", "no pickle"),
        (pickle_faults, "training/a.py", "import yaml\nyaml.load('x', yaml.Loader)", "no pickle"),
        (pickle_faults, "training/a.py", "import yaml\nclass L(yaml.Loader): ...\nyaml.load('x', L)", "no pickle"),
        (pickle_faults, "training/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "allows pickle"),
    ],
)
def test_faults_are_found(tmp_path, check, file, source, fault):
    _synthetic_tree(tmp_path, {file: source})
    found = check(tmp_path)
    assert len(found) == 1
    assert fault in found[0]


def test_a_clean_tree_has_no_faults(tmp_path):
    _synthetic_tree(
        tmp_path,
        {
            "runtime/ray/actor.py": "import ray\nimport distmeta.program.program\nfrom distmeta import __version__",
            "training/a.py": "import yaml\nfrom distmeta.runtime.executor import Executor\nyaml.safe_load('1')",
            "models/petl/partition.py": "import deepspeed\nimport torch\nfrom distmeta.models import a",
            "adapt/pyfunc_model.py": "import mlflow\nfrom distmeta.adapt.load import load",
            "config/a.py": "import yaml\nclass L(yaml.SafeLoader): ...\nyaml.load('1', L)",
            "data/b.py": "import numpy as np\nfrom distmeta.core.seeding import mix\nnp.load('x', allow_pickle=False)",
        },
    )
    assert [fault for check in (layering_faults, library_faults, pickle_faults) for fault in check(tmp_path)] == []


def _synthetic_tree(root: Path, changes: dict[str, str]) -> None:
    """A small package in the real one's shape. `training` already imports `adapt`, so the way back is a cycle."""
    sources = {
        "__init__.py": "",
        "core/types.py": "import torch",
        "config/a.py": "",
        "core/seeding.py": "",
        "data/b.py": "",
        "models/a.py": "",
        "tasks/base.py": "",
        "engine/a.py": "",
        "program/program.py": "",
        "adapt/load.py": "",
        "training/a.py": "import distmeta.adapt.load",
        "runtime/__init__.py": "",
        **changes,
    }
    for file, source in sources.items():
        path = root / "distmeta" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


def test_the_file_map_of_the_documentation_has_every_unit():
    tree = ast.parse((ROOT / "docs" / "hooks" / "pages.py").read_text(encoding="utf-8"))
    (order,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ORDER"
    )
    named = {node.value for node in ast.walk(order) if isinstance(node, ast.Constant)}
    assert named == {unit for module in module_files(ROOT) if (unit := unit_of(module))} - {"__main__"}
