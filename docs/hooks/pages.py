"""MkDocs hook: documents from outside `docs/` as pages, and the file map of the architecture page."""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LOG = logging.getLogger("mkdocs.hooks.pages")
_ROOT = Path(__file__).resolve().parents[2]
_PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cluster/README.md": "cluster_setup.md",
}
_ORDER = (
    *("core", "config", "data", "models", "server", "tracking", "tasks", "methods"),
    *("engine", "program", "analysis", "checkpoint", "runtime", "adapt", "optim", "training", "cli"),
)
"""The packages of distmeta, as they import each other."""
_MARKER = "<!-- file map -->"
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of `_PAGES` to the site."""
    for document, page in _PAGES.items():
        files.append(File.generated(config, page, content=_as_page(document)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the file map in the place of the marker."""
    return markdown.replace(_MARKER, "\n".join(_file_map())) if _MARKER in markdown else markdown


def _as_page(document: str) -> str:
    """The text of a document, with links that work in the site: to pages, or else the path of the file as code."""
    folder = posixpath.dirname(document)

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], posixpath.normpath(posixpath.join(folder, match[2])), match[3] or ""
        if target in _PAGES:
            return f"[{text}]({_PAGES[target]}{anchor})"
        if target.startswith("docs/"):
            return f"[{text}]({target.removeprefix('docs/')}{anchor})"
        return f"`{target}`"

    return _LINK.sub(link, (_ROOT / document).read_text(encoding="utf-8"))


def _file_map() -> Iterator[str]:
    """A table for each package: its modules, and the first sentence of their docstrings."""
    packages = {path.parent.name for path in (_ROOT / "distmeta").glob("*/__init__.py")}
    if packages != set(_ORDER):
        _LOG.warning("architecture.md: in _ORDER or in distmeta/ alone: %s", sorted(packages ^ set(_ORDER)))
    for package in (*(f"distmeta/{name}" for name in _ORDER if name in packages), "benchmarks"):
        yield f"\n### `{package}`\n\n| module | what it holds |\n|---|---|"
        for path in sorted((_ROOT / package).rglob("*.py"), key=lambda path: (len(path.parts), path)):
            if path.name != "__init__.py":
                yield f"| `{path.relative_to(_ROOT / package).as_posix()}` | {_first_sentence(path)} |"


def _first_sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    if not text:
        _LOG.warning("architecture.md: %s has no docstring", path.relative_to(_ROOT))
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0].rstrip(".").replace("|", "\\|")
