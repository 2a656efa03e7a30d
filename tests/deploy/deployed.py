"""The files of `cluster/`, as the tests of this folder read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


def read_yaml(name: str) -> Any:
    """The only document of a YAML file, by its path below `cluster/`."""
    return yaml.safe_load((CLUSTER / name).read_text())


def read_documents(name: str) -> list[dict[str, Any]]:
    """All documents of a YAML file."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def pins(text: str) -> dict[str, str]:
    """The `name==version` lines of a requirements or constraints file, names in lower case."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", text, re.MULTILINE)
    return {name.lower(): version for name, version in found}


def constraints() -> dict[str, str]:
    """The versions that distmeta is tested with."""
    return pins((ROOT / "constraints.txt").read_text())


def text_files() -> list[Path]:
    """Every file below `cluster/`."""
    return sorted(path for path in CLUSTER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """All mappings of a tree of lists and mappings."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from mappings(value)
