"""Import a table of regression tasks: a column of groups, each of which is a task, and columns of numbers."""

from __future__ import annotations

from pathlib import Path

from distmeta.core.errors import UserError
from distmeta.data.importers.arrow import frame_of, load_table
from distmeta.data.importers.base import ClassData, Importer, ImportOptions
from distmeta.data.importers.labelled import group_data
from distmeta.data.manifest import Source, file_sha256

DEFAULT_GROUP, DEFAULT_TARGET = "group", ("target",)


def read_groups(source: Path, options: ImportOptions) -> ClassData:
    """Read a table; rows keep their order within a group.

    Args:
        source: A csv, tsv, parquet, jsonl or Arrow file.
        options: `group` (default `group`), `target` (default `target`), `inputs` (default: all other columns),
            `split_column`, `splits`, `seed`, `fractions`.

    Raises:
        UserError: The table is damaged, a column is missing, a group is empty, or a value is no finite number.
    """
    group, target = options.group or DEFAULT_GROUP, options.target or DEFAULT_TARGET
    splits = [options.split_column] if options.split_column else []
    others = (group, *target, *splits)
    if twice := sorted({name for name in options.inputs if name in others or options.inputs.count(name) > 1}):
        raise UserError(f"column '{twice[0]}' is named twice", where="--inputs", allowed="columns of inputs only")
    table = load_table(source, [*others, *options.inputs], [group, *splits])
    inputs = options.inputs or tuple(name for name in table.column_names if name not in others)
    if source.suffix.lower() == ".jsonl" and not options.inputs:  # only the columns that are asked for were read
        table = load_table(source, [*others, *inputs], [group, *splits])
    frame = frame_of(table, str(source), [*others, *inputs])
    if not inputs:
        raise UserError("has no column of inputs", where=str(source), allowed=f"columns besides {', '.join(others)}")
    return group_data(frame, group, inputs, target, options, [Source.of(source.name, file_sha256(source))])


IMPORTER = Importer(
    read=read_groups,
    description="regression: a csv, tsv, parquet, jsonl or Arrow file with columns of groups, inputs and targets",
    options=frozenset({"group", "target", "inputs", "split_column", "splits", "seed", "fractions"}),
)
