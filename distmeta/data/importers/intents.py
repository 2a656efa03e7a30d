"""BANKING77 and CLINC150: short queries by intent, with the five published few-shot class splits of each.

- BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): `train.csv` and `test.csv` with the columns `text` and
  `category`; 77 intents of one domain.
- CLINC150 (Larson et al. 2019, ACL D19-1131): `data_full.json` and `domains.json`; 150 intents of 10 domains, and
  out-of-scope queries, which are class `oos` and in no split.
- `few_shot_class_splits.json`: the class splits `01` to `05` of ProtAugment (Dopierre, Gravier & Logerais 2021,
  arXiv:2105.12995).

A class holds the texts of all of the data set's own splits, in their order. CLINC150 also gets the split set `domain`:
six domains for training, two for validation and two for testing, in the order of `domains.json`. No such split is
published.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from distmeta.core.errors import UserError
from distmeta.core.files import read_file
from distmeta.data.importers.arrow import frame_of, load_table
from distmeta.data.importers.base import ClassData, Importer, ImportOptions
from distmeta.data.importers.columns import Frame, examples_of, labels
from distmeta.data.importers.labelled import classes_of
from distmeta.data.manifest import Source, SplitSets, file_sha256
from distmeta.data.splits import OTHER_NAMES, OUTSIDE_CLASS, by_name, fractions

SPLITS_NAME = "few_shot_class_splits.json"
_BANKING_NAMES = ("train.csv", "test.csv")
_CLINC_NAME, _DOMAINS_NAME = "data_full.json", "domains.json"
_DOMAIN_COUNTS = {"train": 6, "val": 2, "test": 2}
_MAX_BYTES = 256 << 20

Content = TypeVar("Content", bound=BaseModel)
Pair = tuple[str, str]
_ClassSplits = dict[str, dict[str, dict[str, list[str]]]]


class _Clinc(BaseModel):
    """Content of `data_full.json`: pairs of text and intent."""

    train: list[Pair]
    val: list[Pair]
    test: list[Pair]
    oos_train: list[Pair]
    oos_val: list[Pair]
    oos_test: list[Pair]


class _Splits(BaseModel):
    """Content of `few_shot_class_splits.json`: {data set: {split set: {split: class names}}}."""

    data: _ClassSplits


class _Domains(BaseModel):
    """Content of `domains.json`: {domain: class names}, in the order of the file."""

    domains: dict[str, list[str]] = Field(min_length=sum(_DOMAIN_COUNTS.values()))


def read_banking77(source: Path, options: ImportOptions) -> ClassData:
    """Read BANKING77: 13,083 texts of 77 intents.

    Args:
        source: The folder of the files, or its parent if the folder is called `banking77`.
        options: `seed` of a random class split, for files without the published ones.

    Raises:
        UserError: A file is missing or damaged, or names a class that does not exist.
    """
    folder = _folder(source, "banking77", _BANKING_NAMES[0])
    texts: list[str] = []
    intents: list[str] = []
    for name in _BANKING_NAMES:
        columns = ["text", "category"]
        frame = frame_of(load_table(folder / name, columns, columns), str(folder / name), columns)
        texts += examples_of(frame, ["text"], np.arange(frame.num_rows), size=None, grey=None)
        intents += labels(frame, "category")
    return _class_data("banking77", folder, _BANKING_NAMES, texts, intents, {}, options)


def read_clinc150(source: Path, options: ImportOptions) -> ClassData:
    """Read CLINC150: 22,500 texts of 150 intents, and 1,200 that are out of scope.

    Args:
        source: The folder of the files, or its parent if the folder is called `clinc150`.
        options: `seed` of a random class split, for files without the published ones.

    Raises:
        UserError: A file is missing or damaged, or names a class that does not exist.
    """
    folder = _folder(source, "clinc150", _CLINC_NAME)
    data = _parse(_Clinc, folder / _CLINC_NAME, "lists of [text, intent] for train, val, test, oos_train, ...")
    inside = [*data.train, *data.val, *data.test]
    pairs = [*inside, *data.oos_train, *data.oos_val, *data.oos_test]
    where = str(folder / _CLINC_NAME)
    if not pairs:
        raise UserError("holds no text", where=where)
    if any((intent == OUTSIDE_CLASS) != (row >= len(inside)) for row, (_, intent) in enumerate(pairs)):
        what, allowed = "out-of-scope texts are among the others, or others among them", f"'{OUTSIDE_CLASS}' in oos_*"
        raise UserError(what, where=where, allowed=allowed)
    frame = Frame(where, len(pairs), {"text": [text for text, _ in pairs], "intent": [intent for _, intent in pairs]})
    texts = examples_of(frame, ["text"], np.arange(frame.num_rows), size=None, grey=None)
    splits = {"domain": _domain_lists(folder / _DOMAINS_NAME)}
    files = (_CLINC_NAME, _DOMAINS_NAME)
    return _class_data("clinc150", folder, files, list(texts), labels(frame, "intent"), splits, options)


def _domain_lists(path: Path) -> dict[str, list[str]]:
    domains = list(_parse(_Domains, path, "10 domains with lists of intents", key="domains").domains.values())
    lists, start = {}, 0
    for split, count in _DOMAIN_COUNTS.items():
        lists[split] = [name for names in domains[start : start + count] for name in names]
        start += count
    return lists


def _class_data(
    name: str,
    folder: Path,
    files: Sequence[str],
    texts: Sequence[str],
    intents: Sequence[str],
    lists: Mapping[str, Mapping[str, Sequence[str]]],
    options: ImportOptions,
) -> ClassData:
    """Sort the rows by class, and add the published splits, or a random one where their file is missing."""
    classes = classes_of(intents, str(folder))
    sources = [Source(name=file, sha256=file_sha256(folder / file)) for file in files]
    splits: SplitSets = {}
    path = _splits_path(folder)
    if path is None:
        inside = [index for index, each in enumerate(classes.names) if each != OUTSIDE_CLASS]
        for set_name, parts in fractions(len(inside), seed=options.seed).items():
            splits[set_name] = {split: [inside[index] for index in indices] for split, indices in parts.items()}
    else:
        sources.append(Source(name=SPLITS_NAME, sha256=file_sha256(path)))
        for set_name, published in _published(path, name).items():
            splits |= by_name(set_name, published, classes.names, str(path))
    for set_name, given in lists.items():
        splits |= by_name(set_name, given, classes.names, str(folder / _DOMAINS_NAME))
    return ClassData([texts[row] for row in classes.order], classes.names, classes.counts, splits, sources)


def _published(path: Path, name: str) -> dict[str, dict[str, list[str]]]:
    data = _parse(_Splits, path, "lists of class names by data set, split set and split", key="data").data
    if not data.get(name):
        raise UserError(f"has no class splits of '{name}'", where=str(path))
    return {
        set_name: {OTHER_NAMES.get(split, split): names for split, names in parts.items()}
        for set_name, parts in data[name].items()
    }


def _folder(source: Path, name: str, first: str) -> Path:
    return source / name if os.path.isfile(source / name / first) else source


def _splits_path(folder: Path) -> Path | None:
    """The file of the class splits: beside the texts, or in the folder `intents` beside theirs."""
    paths = (folder / SPLITS_NAME, folder.resolve().parent / "intents" / SPLITS_NAME)
    return next((path for path in paths if os.path.isfile(path)), None)


def _parse(model: type[Content], path: Path, allowed: str, key: str | None = None) -> Content:
    """Read a JSON file; with `key`, its content is that field of the model."""
    try:
        content = json.loads(read_file(path, _MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", where=str(path)) from error
    try:
        return model.model_validate(content if key is None else {key: content})
    except ValidationError as error:
        problem = error.errors()[0]
        at = ".".join(str(part) for part in problem["loc"][key is not None :])
        raise UserError(f"{at or 'it'}: {problem['msg']}", where=str(path), allowed=allowed) from error


BANKING77 = Importer(
    read=read_banking77,
    description=f"BANKING77: a folder with {' and '.join(_BANKING_NAMES)}, and {SPLITS_NAME} there or in ../intents",
    options=frozenset({"seed"}),
    raw_folder="banking77",
)
CLINC150 = Importer(
    read=read_clinc150,
    description=f"CLINC150: a folder with {_CLINC_NAME} and {_DOMAINS_NAME}, and {SPLITS_NAME} there or in ../intents",
    options=frozenset({"seed"}),
    raw_folder="clinc150",
)
