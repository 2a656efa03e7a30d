"""MkDocs hook: documents from outside `docs/` as pages, and a check that the file map names every module."""

from __future__ import annotations

import logging
import posixpath
import re
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
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of `_PAGES` to the site."""
    for document, page in _PAGES.items():
        files.append(File.generated(config, page, content=_as_page(document)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Warn about modules that the file map of the architecture page leaves out, or that no longer exist."""
    if page.file.src_uri == "architecture.md":
        named = set(re.findall(r"^\| `((?:distmeta|benchmarks)/[\w/]+\.py)` \|", markdown, re.MULTILINE))
        for path in sorted(named ^ _modules()):
            problem = "does not exist" if path in named else "is missing"
            _LOG.warning("architecture.md: %s %s in the file map", path, problem)
    return markdown


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


def _modules() -> set[str]:
    """The modules of the package and of the benchmarks; an `__init__.py` counts only where it holds code."""
    paths = (path for package in ("distmeta", "benchmarks") for path in (_ROOT / package).rglob("*.py"))
    return {path.relative_to(_ROOT).as_posix() for path in paths if path.name != "__init__.py"}
