"""`distmeta adapt`: label a user's own images or sentences with a trained learner."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from distmeta.cli.adapt_images import class_folders, image_kinds, images_in, read_images
from distmeta.cli.adapt_stream import StreamOptions, Unlabelled
from distmeta.cli.adapt_texts import labelled_texts, prediction_rows, unlabelled_texts
from distmeta.cli.output import WHICH, JsonOption, TrustOption, people_read, print_json, print_table, which_option
from distmeta.core.collector import resume as resume_collector
from distmeta.core.errors import UserError
from distmeta.core.files import write_file
from distmeta.data.importers.arrow import is_table

if TYPE_CHECKING:
    from distmeta.adapt.load import AdaptableLearner

EXAMPLES = """\b
Examples:
  distmeta adapt runs/first_job --support my_letters --query unsorted --invert --out labels.csv
  distmeta adapt CKPT --support labelled.csv --query questions.csv          (a learner of texts)
  distmeta adapt CKPT --unlabelled photos --method tent --batch 100         (at test time, without labels)
"""


def adapt(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint, or the folder of a run.")],
    support: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Labelled examples: a folder with one sub-folder of images for each class, or a table (csv, tsv, "
            "jsonl, parquet, Arrow) of texts and labels.",
        ),
    ] = None,
    query: Annotated[
        Path | None, typer.Option(metavar="PATH", help="What to label: a folder of images, or a table of texts.")
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of both: a folder of images to label in batches, adapting to these without labels.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How, with --unlabelled: bn_adapt, tent, ttt. Default: as in the run."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Images of a batch, with --unlabelled.")] = 200,
    setting: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Whether a batch goes on from the one before (online) or starts anew (episodic), with --unlabelled.",
        ),
    ] = "online",
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Learning rate of --method.")] = None,
    invert: Annotated[
        bool,
        typer.Option("--invert", help="Swap dark and light: for dark ink on light paper, where ink was light."),
    ] = False,
    text_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of texts in both tables (default: text).")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of labels in the table of --support (default: label).")
    ] = None,
    which: Annotated[str, typer.Option(metavar="NAME", help=f"Checkpoint of the run: {', '.join(WHICH)}.")] = "latest",
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Statistics of batch norm: of the images to label, taken together (transductive), or of the labelled "
            "ones alone (inductive). Default: as it was trained.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a CSV file: file,label, or text,label,confidence,second."),
    ] = None,
    trust_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Adapt a trained learner to a few labelled examples of your own, and label others with it.

    Images lie in folders, and are scaled to the learner's input, in grey or in colour as it was trained. Texts are rows
    of tables. A learner with a head of its own needs as many classes as it was trained for.
    """
    chosen = which_option(which, checkpoint)
    examples: _Images | _Texts | Unlabelled
    if unlabelled is not None:
        if support is not None or query is not None or text_column is not None or label_column is not None:
            what = "--unlabelled goes without --support, --query and columns"
            raise UserError(what, where="adapt", allowed="one or the other")
        examples = Unlabelled(StreamOptions(unlabelled, method, batch, setting, lr, invert))
    else:
        if method is not None or lr is not None:
            raise UserError(
                "--method and --lr need --unlabelled DIR", where="adapt", allowed="with it, or without them"
            )
        examples = _labelled(support, query, invert, text_column, label_column)
    if out is not None:
        _require_writable(out)
    from distmeta.adapt.load import load

    resume_collector()
    with people_read(as_json):
        learner = load(checkpoint, which=chosen, protocol=protocol, trust_code=trust_code)
        rows = examples.label(learner)
    if out is not None:
        _write(out, rows)
    if as_json:
        classes = {} if examples.classes is None else {"classes": examples.classes}
        print_json({"checkpoint": checkpoint, **classes, **examples.as_json(rows)})
    else:
        print_table(rows)


def _labelled(
    support: Path | None, query: Path | None, invert: bool, text_column: str | None, label_column: str | None
) -> _Images | _Texts:
    """Labelled examples and what to label by them."""
    if support is None or query is None:
        missing = "--support" if support is None else "--query"
        raise UserError(f"{missing} is missing", where="adapt", allowed="--support and --query, or --unlabelled DIR")
    of_texts = [name for name, path in {"--support": support, "--query": query}.items() if _is_file(path)]
    if len(of_texts) == 1:
        what = f"{of_texts[0]} is a file, the other one is not"
        raise UserError(what, where="adapt", allowed="two tables of texts, or two folders of images")
    options = _Options(support, query, invert, text_column, label_column)
    return _Texts(options) if of_texts else _Images(options)


@dataclass(frozen=True)
class _Options:
    support: Path
    query: Path
    invert: bool
    text_column: str | None
    label_column: str | None


class _Images:
    """Images in folders."""

    def __init__(self, options: _Options) -> None:
        if options.text_column is not None or options.label_column is not None:
            what = "--text-column and --label-column need tables of texts"
            raise UserError(what, where="adapt", allowed="folders without them, or tables")
        self._options = options
        self._labelled = class_folders(options.support)
        self._queries = images_in(options.query)
        if not self._queries:
            raise UserError("holds no image", where=str(options.query), allowed=image_kinds())
        self.classes = list(self._labelled)

    def label(self, learner: AdaptableLearner) -> list[dict[str, Any]]:
        support, invert, shape = self._options.support, self._options.invert, learner.input_shape
        if learner.takes_texts:
            what, allowed = "is a folder, but the learner takes texts", "a table with columns of texts and labels"
            raise UserError(what, where=f"--support {support}", allowed=allowed)
        if learner.way not in (None, len(self.classes)):
            raise UserError(
                f"holds {len(self.classes)} class folders",
                where=str(support),
                allowed=f"{learner.way}, the number of classes that the learner was trained for",
            )
        files = [path for paths in self._labelled.values() for path in paths]
        targets = np.repeat(np.arange(len(self.classes)), [len(paths) for paths in self._labelled.values()])
        predict = learner.adapt(read_images(files, shape, invert), targets)
        found = predict(read_images(self._queries, shape, invert))
        return [
            {"file": path.name, "label": self.classes[int(label)]}
            for path, label in zip(self._queries, found, strict=True)
        ]

    def as_json(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"labels": {row["file"]: row["label"] for row in rows}}


class _Texts:
    """Texts in tables."""

    def __init__(self, options: _Options) -> None:
        if options.invert:
            raise UserError("needs images", where="--invert", allowed="folders of images, or no --invert")
        column = options.text_column or "text"
        self._support = options.support
        self._texts, self._labels = labelled_texts(options.support, column, options.label_column or "label")
        self._queries = unlabelled_texts(options.query, column)
        self.classes = sorted(set(self._labels))

    def label(self, learner: AdaptableLearner) -> list[dict[str, Any]]:
        if not learner.takes_texts:
            what = f"is a table, but the learner takes inputs of shape {learner.input_shape}, no texts"
            raise UserError(
                what, where=f"--support {self._support}", allowed="a learner of texts, or folders of images"
            )
        if learner.way not in (None, len(self.classes)):
            raise UserError(
                f"holds {len(self.classes)} labels",
                where=str(self._support),
                allowed=f"{learner.way}, the number of classes that the learner was trained for",
            )
        predict = learner.adapt(self._texts, self._labels)
        return prediction_rows(self._queries, self.classes, predict.confidences(self._queries))

    def as_json(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"predictions": list(rows)}


def _is_file(path: Path) -> bool:
    """Whether a path is meant to be a table: no folder, and a file or with the name of a table."""
    return not os.path.isdir(path) and (os.path.isfile(path) or is_table(path))


def _require_writable(out: Path) -> None:
    """Refuse a file that cannot be written before the learner is loaded."""
    if not os.path.isdir(out.parent):
        raise UserError("no such folder", where=str(out.parent), allowed="--out FILE in a folder that exists")
    if os.path.isdir(out):
        raise UserError("is a folder", where=str(out), allowed="--out FILE")
    if not os.access(out if os.path.exists(out) else out.parent, os.W_OK):
        raise UserError("cannot be written", where=str(out), allowed="--out FILE in a folder that can be written")


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode(errors="surrogateescape"))  # the bytes of the file names, UTF-8 or not
