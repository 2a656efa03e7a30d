"""From rows in any order to what a store holds: rows sorted by class or group, and class splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distmeta.data.importers.base import ClassData, ImportOptions, require_class_names
from distmeta.data.importers.columns import Frame, Rows, examples_of, labels, numbers
from distmeta.data.manifest import Source, SplitSets
from distmeta.data.splits import by_rows, fractions, given


@dataclass(frozen=True)
class Classes:
    """The classes of M rows.

    Attributes:
        names: Sorted names.
        index: [M] class of each row.
        order: [M] rows sorted by class; rows of a class keep their order.
        counts: Rows of each class.
    """

    names: list[str]
    index: Rows
    order: Rows
    counts: list[int]


def classes_of(row_labels: Sequence[str], where: str) -> Classes:
    """Number the distinct labels, in numerical order if all are numbers, otherwise in alphabetical order.

    Raises:
        UserError: A label that cannot be the name of a class.
    """
    distinct = set(row_labels)
    require_class_names(sorted(distinct), where)
    names = sorted(distinct)
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    position = {name: index for index, name in enumerate(names)}
    index = np.asarray([position[label] for label in row_labels], dtype=np.int64)
    return Classes(names, index, np.argsort(index, kind="stable"), np.bincount(index).tolist())


def splits_of(
    frame: Frame,
    classes: Classes,
    *,
    column: str | None,
    lists: Mapping[str, Sequence[str]] | None,
    options: ImportOptions,
    noun: str = "class",
) -> SplitSets:
    """The split set: of a column, of lists of names, or else at random."""
    if column is not None:
        where = f"{frame.where}, column '{column}'"
        return by_rows(classes.index.tolist(), classes.names, labels(frame, column), where, noun)
    if lists is not None:
        return given(lists, classes.names, frame.where)
    return fractions(len(classes.names), options.fractions, options.seed)


def class_data(frame: Frame, inputs: Sequence[str], options: ImportOptions, sources: list[Source]) -> ClassData:
    """Class-labelled rows as the contents of a store.

    Args:
        frame: The rows.
        inputs: One column of images, texts or vectors, or several of numbers.
        options: `label_column`, `size`, `grey`, `split_column`, `splits`, `fractions`, `seed`.
        sources: Raw files and their digests.

    Raises:
        UserError: A column is missing, or a value is empty or of the wrong kind; row and column are named.
    """
    classes = classes_of(labels(frame, options.label_column), f"{frame.where}, column '{options.label_column}'")
    return ClassData(
        examples=examples_of(frame, inputs, classes.order, size=options.size, grey=options.grey),
        class_names=classes.names,
        class_counts=classes.counts,
        splits=splits_of(frame, classes, column=options.split_column, lists=options.splits, options=options),
        sources=sources,
    )


def group_data(
    frame: Frame,
    group: str,
    inputs: Sequence[str],
    target: Sequence[str],
    options: ImportOptions,
    sources: list[Source],
) -> ClassData:
    """Rows of regression tasks as the contents of a store: each group is a task.

    Args:
        frame: The rows.
        group: Column of the groups.
        inputs: Columns of the inputs.
        target: Columns of the targets.
        options: `split_column`, `splits`, `fractions`, `seed`.
        sources: Raw files and their digests.

    Raises:
        UserError: A column is missing, or a value is empty or no number; row and column are named.
    """
    classes = classes_of(labels(frame, group), f"{frame.where}, column '{group}'")
    return ClassData(
        examples=numbers(frame, [*inputs, *target])[classes.order],
        class_names=classes.names,
        class_counts=classes.counts,
        splits=splits_of(
            frame, classes, column=options.split_column, lists=options.splits, options=options, noun="group"
        ),
        sources=sources,
        num_targets=len(target),
    )
