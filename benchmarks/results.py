"""docs/results.md and the README's table, made from the tables' results.

    python -m benchmarks.results                              write both from docs/results/*.json
    python -m benchmarks.results runs/tables/omniglot_result.json ...      take over results first, with their pictures

Each file is the NAME_result.json that `distmeta table` writes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scripts import CHECKOUT, run_main
from distmeta.core.errors import UserError
from distmeta.methods import METHODS
from distmeta.training.table_result import markdown_of, markdown_table, where_and_how

RESULTS, PICTURES = CHECKOUT / "docs" / "results", CHECKOUT / "docs" / "images"
PAGE, README = CHECKOUT / "docs" / "results.md", CHECKOUT / "README.md"
ORDER = ("omniglot", "methods_omniglot", "methods_sinusoid", "reuse_omniglot", "reuse_cifar_fs", "transfer_usps")
"""The first tables of the page; others follow by name."""
IN_README = (
    "methods_omniglot",
    (
        "maml",
        "fomaml",
        "anil",
        "nil",
        "reptile",
        "protonet",
        "matching",
        "film",
        "in_context",
        "pretrain",
    ),
)
"""Name of a table, and methods whose rows the README shows."""
_START, _END = "<!-- results: made by python -m benchmarks.results -->", "<!-- end of results -->"
_HEAD = """# Results

Made from the files in `docs/results` by `python -m benchmarks.results`; each table is made by one command
([Tables](tables.md)) and says its machine and its budget. Budgets are small beside the papers': a table is there to
compare methods with each other under equal conditions.
"""


def tables() -> list[dict[str, Any]]:
    """The results that are kept, in the order of the page."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    return [found[name] for name in (*(name for name in ORDER if name in found), *sorted(set(found) - set(ORDER)))]


def take(path: Path) -> None:
    """Keep a result, and its picture."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name = content["name"]
        markdown_of(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no result of a table: {error}", where=str(path), allowed="NAME_result.json") from None
    RESULTS.mkdir(exist_ok=True)
    content.pop("run_id", None)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    picture = path.with_name(f"{name}.png")
    if picture.exists():
        shutil.copyfile(picture, PICTURES / f"results_{name}.png")


def page(contents: Sequence[Mapping[str, Any]]) -> str:
    """The text of docs/results.md."""
    parts = [_HEAD]
    for content in contents:
        parts.append(markdown_of(content))
        if (PICTURES / f"results_{content['name']}.png").exists():
            parts.append(f"![{content['title']}](images/results_{content['name']}.png)\n")
    return "\n".join(parts)


def readme_table(contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of the README's table: some rows of one table, whose methods are links to their pages."""
    table, methods = IN_README
    content = next((each for each in contents if each["name"] == table), None)
    if content is None:
        return []
    by_title = {row[""]: row for row in content["rows"]}
    pages = {METHODS[name].title: f"docs/methods/{name}.md" for name in methods if METHODS[name].title in by_title}
    rows = [
        {"method": f"[{title}]({page})"} | {name: text for name, text in by_title[title].items() if name}
        for title, page in pages.items()
    ]
    return [*markdown_table(rows), "", f"{where_and_how(content)}."]


def readme(text: str, contents: Sequence[Mapping[str, Any]]) -> str:
    """The README with its table replaced."""
    lines = "\n".join([_START, *readme_table(contents), _END])
    return re.sub(f"{re.escape(_START)}.*?{re.escape(_END)}", lambda _: lines, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, metavar="FILE")
    for path in parser.parse_args().results:
        take(path)
    contents = tables()
    PAGE.write_text(page(contents), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8"), contents), encoding="utf-8")
    print(
        f"{PAGE.relative_to(CHECKOUT)} and README.md: {', '.join(each['name'] for each in contents) or 'no table yet'}"
    )


if __name__ == "__main__":
    run_main(main)
