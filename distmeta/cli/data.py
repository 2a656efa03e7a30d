"""`distmeta data`: import raw files into stores, list them, look into them, download raw files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from distmeta.cli.output import JsonOption, one_line, print_json, print_table, print_values
from distmeta.config.bounds import MAX_SEED
from distmeta.core.errors import UserError
from distmeta.core.files import read_file
from distmeta.core.paths import data_home, expand_user
from distmeta.data.catalog import import_store, list_stores, open_store, stores_home
from distmeta.data.fetch import REMOTE, fetch
from distmeta.data.importers import IMPORTERS, ImportOptions
from distmeta.data.inspect import contact_sheet, summary
from distmeta.data.splits import DEFAULT_FRACTIONS
from distmeta.data.store import ClassStore

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Import raw files into memory-mapped stores, and look into the stores.\n\n"
    "Stores lie in $DISTMETA_HOME/stores (default ~/.cache/distmeta/stores) and are used by name in a job. "
    "A well-known data set is imported at first use when $DISTMETA_DATA holds its raw files.",
)

_MAX_SPLITS_BYTES = 64 << 20
_KINDS = "\n\n".join(f"- {name}: {importer.description.split(': ', 1)[-1]}" for name, importer in IMPORTERS.items())


@app.command(
    "import",
    help="Turn raw files into a store: `import KIND SRC --name NAME`, or `import NAME SRC --format KIND`. "
    f"KIND is one of:\n\n{_KINDS}",
)
def import_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"One of {', '.join(IMPORTERS)}; with --format, the store's name.")
    ],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The raw files: a folder, or the file of a table.")],
    name: Annotated[str | None, typer.Option(help="Name of the store (default: KIND, or the name of SRC).")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="KIND", help="The kind, where the first argument is a name.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Resize images to SIZE x SIZE pixels (omniglot: 28 by default).")
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Convert images to one channel.")] = False,
    text_column: Annotated[str | None, typer.Option(help="table: column of texts (default: text).")] = None,
    image_column: Annotated[
        str | None, typer.Option(help="table: column of images, as encoded bytes or paths relative to the table.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="table, hf: column of class names.")] = "label",
    inputs: Annotated[
        str,
        typer.Option(
            metavar="COL,COL",
            help="hf, table: column of images, vectors or texts, or several of numbers (hf: image by default). "
            "regression: columns of inputs (default: all others).",
        ),
    ] = "",
    group: Annotated[
        str | None,
        typer.Option(
            help="regression: column of groups, each of which is a task (default: group). Implies the format."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="COL,COL", help="regression: column of the target, or several (default: target).")
    ] = "",
    split_column: Annotated[
        str | None, typer.Option(help="table, hf, regression: column of train, val and test (hf: split).")
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help='JSON file of classes (or groups): {"train": [...], "val": [...], "test": [...]}.'),
    ] = None,
    fractions: Annotated[
        str, typer.Option(help="Shares of the train, val and test classes (or groups), split at random.")
    ] = ",".join(str(part) for part in DEFAULT_FRACTIONS),
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the random class split.")] = 0,
    min_examples: Annotated[int, typer.Option(help="Refuse a class with fewer examples.")] = 1,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a store of the same name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn raw files into a store (the command's help is above, with the list of kinds)."""
    kind, name = _kind_and_name(kind, name, format_, group)
    options = ImportOptions(
        size=size,
        grey=grey,
        seed=seed,
        fractions=_parse_fractions(fractions),
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        inputs=_names(inputs, "--inputs"),
        group=group,
        target=_names(target, "--target"),
        split_column=split_column,
        splits=None if splits is None else _read_splits(splits),
    )
    store = import_store(kind, source, name=name, options=options, min_examples=min_examples, replace=replace)
    _show(summary(store), as_json)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the stores: what they hold and which class splits they have."""
    rows: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    for name in list_stores():
        try:
            rows.append(_row(ClassStore.open(stores_home() / name)))
        except UserError as error:
            unreadable.append({"name": name, "reason": one_line(error)})
    if as_json:
        print_json({"home": str(stores_home()), "stores": rows, "unreadable": unreadable})
        return
    print_table(rows, title=str(stores_home()))
    for store in unreadable:
        print(f"unreadable: {store['name']}: {store['reason']}")


@app.command("inspect")
def inspect(
    name_or_path: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="A store's name, or its folder.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet: images to this PNG file, texts to this .txt file.")
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Examples of a class on the sheet.")] = 10,
    verify: Annotated[bool, typer.Option("--verify", help="Read all examples and check their digest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Describe a store: counts, class splits, statistics of its examples, where it came from."""
    store = open_store(name_or_path)
    if verify:
        store.verify()
    result = summary(store)
    if sheet is not None:
        contact_sheet(store, sheet, per_class=per_class)
        result["sheet"] = str(sheet)
    _show(result, as_json)


@app.command("fetch")
def fetch_(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(REMOTE)}.")],
    to: Annotated[Path | None, typer.Option(help="Folder for the files (default: $DISTMETA_HOME/raw/NAME).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Download raw files from their canonical place, and check their digests."""
    folder = to or data_home() / "raw" / name
    files = fetch(name, folder)
    result: dict[str, Any] = {"name": name, "folder": str(folder), "files": [path.name for path in files]}
    if name in IMPORTERS:
        result["next"] = f"distmeta data import {name} {folder}"
    _show(result, as_json)


def _row(store: ClassStore) -> dict[str, Any]:
    return {
        "name": store.name,
        "kind": store.kind,
        "shape": list(store.shape),
        "num_classes": len(store.class_names),
        "num_examples": store.num_examples,
        "splits": sorted(store.splits),
    }


def _kind_and_name(first: str, name: str | None, format_: str | None, group: str | None) -> tuple[str, str | None]:
    """The importer and the store's name; the first argument is one of them."""
    if format_ is None and group is not None and first not in IMPORTERS:
        format_ = "regression"
    if format_ is None:
        return first, name
    if name is not None:
        what = f"both --name {name} and --format, which makes '{first}' the name, are given"
        raise UserError(what, where="data import", allowed="one of them")
    return format_, first


def _names(text: str, option: str) -> tuple[str, ...]:
    names = tuple(text.split(",")) if text else ()
    if not all(names):
        raise UserError(f"'{text}' has an empty name", where=option, allowed="COL,COL")
    return names


def _read_splits(path: Path) -> dict[str, list[str]]:
    try:
        lists = json.loads(read_file(expand_user(path), _MAX_SPLITS_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", where=str(path)) from error
    is_lists = isinstance(lists, dict) and all(isinstance(each, list) for each in lists.values())
    if not is_lists or not all(isinstance(each, str | int) for names in lists.values() for each in names):
        allowed = '{"train": [...], "val": [...], "test": [...]}, lists of class names'
        raise UserError("holds no class lists", where=str(path), allowed=allowed)
    return {split: [str(each) for each in names] for split, names in lists.items()}


def _parse_fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"'{text}'", where="--fractions", allowed="three shares that add up to 1: train,val,test"
        ) from error
    return train, val, test


def _show(result: dict[str, Any], as_json: bool) -> None:
    """Print one JSON line, or one line per value."""
    if as_json:
        print_json(result)
        return
    provenance = result.get("provenance")
    if provenance:
        sources = {source["name"]: source["sha256"] for source in provenance["sources"]}
        result = result | {"provenance": provenance | {"sources": sources}}
    print_values(result)
