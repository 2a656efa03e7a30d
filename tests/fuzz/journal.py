"""Notes of `make fuzz`: every input, what became of it, and copies of those that fail."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


class Journal:
    """Where `make fuzz` notes every input before it is run, and keeps those that fail.

    Args:
        file: The file of lines of JSON; inputs are copied to folders beside it.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._count = file, 0

    def write(self, **values: Any) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def keep(self, folder: Path, text: str) -> str:
        """Copy the files of an input; returns the folder."""
        self._count += 1
        target = self._file.with_suffix("") / str(self._count)
        with contextlib.suppress(OSError, shutil.Error):  # pipes and devices
            shutil.copytree(folder, target, symlinks=True)
        target.with_suffix(".command").write_bytes(text.encode(errors="surrogateescape"))
        return str(target)


def journal() -> Journal | None:
    """The journal of `make fuzz`; None in the test suite, where a problem fails the test."""
    file = os.environ.get("DISTMETA_FUZZ_JOURNAL")
    return Journal(Path(file)) if file else None
