"""Import a folder saved by Hugging Face `datasets` (`Dataset.save_to_disk`, `DatasetDict.save_to_disk`).

Its Arrow files are read directly; the library is not needed.
"""

from __future__ import annotations

from pathlib import Path

from distmeta.data.importers.arrow import frame_of, load_saved
from distmeta.data.importers.base import ClassData, Importer, ImportOptions
from distmeta.data.importers.labelled import class_data

DEFAULT_INPUTS = ("image",)


def read_saved(source: Path, options: ImportOptions) -> ClassData:
    """Read a saved data set; the rows of a dictionary of data sets have a column `split`.

    Args:
        source: The folder.
        options: `inputs` (default `image`), `label_column`, `size`, `grey`, `split_column`, `splits`, `seed`,
            `fractions`.

    Raises:
        UserError: The folder is damaged, a column is missing, or a row has no label or input.
    """
    inputs = options.inputs or DEFAULT_INPUTS
    table, digest = load_saved(source)
    splits = [options.split_column] if options.split_column else []
    frame = frame_of(table, str(source), list(dict.fromkeys([*inputs, options.label_column, *splits])))
    return class_data(frame, inputs, options, [digest])


IMPORTER = Importer(
    read=read_saved,
    description="hf: a folder saved by Hugging Face datasets, with a label column and images, vectors or texts",
    options=frozenset({"inputs", "label_column", "size", "grey", "split_column", "splits", "seed", "fractions"}),
)
