"""Tables of runs: which jobs make the rows, which changes make the columns, and what a published table says.

A table file is a Python file with a function that returns a `Table`:

    def table() -> Table:
        return Table(
            name="omniglot",
            title="Omniglot, few-shot classification",
            rows=(Row("MAML", "../omniglot.py:maml"), Row("ProtoNet", "../omniglot.py:protonet")),
            columns=(Column("5-way 1-shot", ("tasks.way=5", "tasks.shots=1")),),
            published={("MAML", "5-way 1-shot"): "98.7 ± 0.4"},
        )
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from distmeta.core.errors import UserError, nearest

PROTOCOLS = ("transductive", "inductive")


def _require_protocol(protocol: str | None, where: str) -> None:
    if protocol not in (None, *PROTOCOLS):
        raise UserError(f"no '{protocol}'", where=where, allowed=" or ".join(PROTOCOLS))


@dataclass(frozen=True)
class View:
    """One score of each run.

    Attributes:
        title: Added to the titles of columns.
        protocol: Statistics of batch norm, `transductive` or `inductive`; None takes the protocol of training. A
            network that does not have it has no score.
        metric: Name of the metric; None takes that of the tasks.
        evaluate: Changes of the run, `field=value`, under which it is scored anew. Without any, the score is that of
            the run's own test.
        measure: `FILE.py:NAME`, relative to the table's file: a function that takes the checkpoint that is tested and
            returns values by name, each a number or a pair of it and the half-width of its interval; `metric` names the
            one that is shown. A table that is taken up again keeps values whatever has become of the function.
        rows: Titles of the rows that have it; None: all.

    Raises:
        UserError: A measure is no `FILE.py:NAME`, or stands without a metric or beside `evaluate`; or there is no such
            protocol.
    """

    title: str = ""
    protocol: str | None = None
    metric: str | None = None
    evaluate: tuple[str, ...] = ()
    measure: str | None = None
    rows: tuple[str, ...] | None = None

    def is_of(self, row: str) -> bool:
        """Whether the row of a title has it."""
        return self.rows is None or row in self.rows

    def __post_init__(self) -> None:
        _require_protocol(self.protocol, "View.protocol")
        if self.measure is None:
            return
        file, _, name = self.measure.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise UserError(f"'{self.measure}' is no measure", where="View.measure", allowed="FILE.py:NAME")
        if self.metric is None or self.evaluate:
            raise UserError(f"'{self.measure}'", where="View.measure", allowed="with `metric`, without `evaluate`")


@dataclass(frozen=True)
class Column:
    """Runs of every row with the same changes.

    Attributes:
        title: Its title.
        changes: `field=value` each.
        views: The scores of each run, one column each.
        x: The number that the column stands for. The picture of a table whose columns all have one is a curve a row.
        averaged: Whether it counts in the table's mean over columns, where there is one.
    """

    title: str
    changes: tuple[str, ...] = ()
    views: tuple[View, ...] = (View(),)
    x: float | None = None
    averaged: bool = True

    def label(self, view: View) -> str:
        """The title of the column of a view."""
        return ", ".join(part for part in (self.title, view.title) if part)


@dataclass(frozen=True)
class Row:
    """A job.

    Attributes:
        title: Its title.
        job: The job, `FILE` or `FILE.py:NAME`, relative to the table's file.
        changes: `field=value` each, before those of the column.
        start: Title of the row from whose meta-parameters it starts (`train.init_from`), in the same column and seed.
        timed: Whether a budget of seconds, or another number of steps, applies to it: not to a row whose number of
            steps is a part of the method.
        shown: Whether it has a line of its own; others are only started from.
        shared: One run for all columns, without their changes; only of a row that is not shown.
        protocol: Statistics of batch norm of scores whose view names none; None takes the protocol of training.

    Raises:
        UserError: There is no such protocol.
    """

    title: str
    job: str
    changes: tuple[str, ...] = ()
    start: str | None = None
    timed: bool = True
    shown: bool = True
    shared: bool = False
    protocol: str | None = None

    def __post_init__(self) -> None:
        _require_protocol(self.protocol, "Row.protocol")


@dataclass(frozen=True)
class Table:
    """A table of runs.

    Attributes:
        name: Name of its files and runs.
        title: One line.
        rows: Its rows; a row comes after the one that it starts from.
        columns: Its columns.
        published: (title of the row, label of the column) -> what the source says.
        source: Where the published numbers are from.
        against: Title of the row that the others are compared with, by differences of runs with the same seed, which
            see the same tasks. None: no comparison.
        xlabel: What the numbers of the columns count.
        mean: Title of a last column with the mean over columns, of rows that have all of them. Its gains are over
            columns and seeds. None: no such column.
        notes: How the protocols differ, and what else there is to know; a paragraph each.

    Raises:
        UserError: A title occurs twice, or something names a row or a column that there is not.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...] = (Column(""),)
    published: Mapping[tuple[str, str], str] = field(default_factory=dict)
    source: str = ""
    against: str | None = None
    xlabel: str = ""
    mean: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]{1,64}", self.name):
            raise UserError(f"'{self.name}' is no name", where="Table.name", allowed="lower-case letters, digits and _")
        titles, labels = [row.title for row in self.rows], self.labels
        _require_different([slug(title) for title in titles], "rows")
        _require_different([slug(column.title) for column in self.columns], "columns")
        _require_different(labels, "columns")
        for index, row in enumerate(self.rows):
            if row.start is not None and row.start not in titles[:index]:
                allowed = nearest(row.start, titles[:index]) or "a row before it"
                raise UserError(f"row '{row.title}' starts from '{row.start}'", where=self.name, allowed=allowed)
            if row.shared and row.shown:
                raise UserError(f"row '{row.title}' is shared", where=self.name, allowed="one that is not shown")
        for view in (view for column in self.columns for view in column.views):
            for title in set(view.rows or ()) - set(titles):
                raise UserError(f"no row '{title}'", where=f"{self.name}: views", allowed=nearest(title, titles))
        if self.against is not None:
            _require_known(self.against, [row.title for row in self.rows if row.shown], f"{self.name}: against")
        for title, label in self.published:
            _require_known(title, titles, f"{self.name}: published")
            _require_known(label, labels, f"{self.name}: published")

    @property
    def labels(self) -> list[str]:
        """The titles of the columns as they are shown."""
        return [column.label(view) for column in self.columns for view in column.views] + list(self.averages)

    @property
    def averages(self) -> dict[str, list[tuple[str, View]]]:
        """Title of a column of means -> what it is the mean of: titles of columns as they are shown, and views."""
        parts: dict[str, list[tuple[str, View]]] = {}
        for column in self.columns if self.mean is not None else ():
            for view in column.views if column.averaged else ():
                label = ", ".join(part for part in (self.mean, view.title) if part)
                parts.setdefault(label, []).append((column.label(view), view))
        return parts

    def part(self, rows: Collection[str] | None, columns: Collection[str] | None) -> Self:
        """The table with some rows, those that they start from, and some columns.

        Args:
            rows: Their titles, as they are or in lower case with `_` for what is no letter or digit; None: all.
            columns: The same of columns.

        Raises:
            UserError: There is no such row or column.
        """
        titles = [row.title for row in self.rows]
        wanted = set(titles if rows is None else _named(rows, titles, "--rows"))
        headings = [column.title for column in self.columns]
        columns = set(headings if columns is None else _named(columns, headings, "--columns"))
        starts = {row.title: row.start for row in self.rows}
        hidden = {start for title in wanted if (start := starts[title]) is not None} - wanted
        kept = [
            replace(row, shown=row.shown and row.title in wanted) for row in self.rows if row.title in wanted | hidden
        ]
        chosen = [column for column in self.columns if column.title in columns]
        part = replace(
            self,
            rows=tuple(kept),
            columns=tuple(
                replace(
                    column,
                    views=tuple(
                        replace(view, rows=None if view.rows is None else tuple(wanted & set(view.rows)))
                        for view in column.views
                        if any(map(view.is_of, wanted))
                    ),
                )
                for column in chosen
            ),
            published={},
            against=self.against if self.against in wanted else None,
        )
        labels = set(part.labels) - (set() if len(chosen) == len(self.columns) else set(self.averages))
        published = {key: text for key, text in self.published.items() if key[0] in wanted and key[1] in labels}
        return replace(part, published=published)


def slug(title: str) -> str:
    """A title as a part of a name."""
    return re.sub(r"[^a-z0-9]+", "_", title.lower().replace("+", "p")).strip("_")


def _named(names: Collection[str], titles: Sequence[str], where: str) -> list[str]:
    """The titles that names mean: `maml` means `MAML`."""
    by_slug = {slug(title): title for title in titles}
    for name in names:
        _require_known(slug(name), list(by_slug), where)
    return [by_slug[slug(name)] for name in names]


def _require_different(titles: Sequence[str], what: str) -> None:
    for title in titles:
        if titles.count(title) > 1:
            raise UserError(f"'{title}' occurs twice", where=f"Table.{what}", allowed="different titles")


def _require_known(title: str, titles: Sequence[str], where: str) -> None:
    if title not in titles:
        raise UserError(f"no '{title}'", where=where, allowed=nearest(title, titles))
