"""Private, masked copies of files to upload, because the originals may be deleted first (checkpoints rotate)."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from distmeta.core.leftovers import owned_folder
from distmeta.tracking.flatten import mask_file, masked_text
from distmeta.tracking.sender import Unsent, Upload

_LOG = logging.getLogger(__name__)


class Staging:
    """A temporary folder with a copy of each file to upload."""

    def __init__(self) -> None:
        self._root, self._note = owned_folder("tracking")
        self._count = 0

    def copy(self, path: Path) -> Path | None:
        """Copy a file or folder; on failure log a warning and return None."""
        try:
            staged = self._new(path.resolve().name)
            if path.is_dir():
                shutil.copytree(path, staged)
            else:
                shutil.copyfile(path, staged)
            for file in [staged, *staged.rglob("*")]:
                mask_file(file)
        except OSError as error:
            _LOG.warning("tracking: %s cannot be recorded: %s", path, error)
            return None
        return staged

    def text(self, content: str, name: str) -> Path | None:
        """Write a text file; on failure log a warning and return None."""
        try:
            staged = self._new(name)
            staged.write_text(masked_text(content, name), encoding="utf-8")
        except OSError as error:
            _LOG.warning("tracking: %s cannot be recorded: %s", name, error)
            return None
        return staged

    def discard(self, uploads: Iterable[Upload]) -> None:
        """Remove the copies of uploads that are done or replaced."""
        for upload in uploads:
            shutil.rmtree(upload.staged.parent, ignore_errors=True)

    def remove(self) -> None:
        """Remove all copies."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._note.remove()

    def _new(self, name: str) -> Path:
        self._count += 1
        folder = self._root / str(self._count)
        folder.mkdir()
        return folder / name


def save_unsent(unsent: Unsent, folder: Path, run_id: str) -> None:
    """Move what could not be sent to `folder/run_id`, and log a warning with its path."""
    if not unsent.points and not unsent.uploads:
        return
    folder = folder / run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            for point in unsent.points:
                line = {"run_id": run_id, "key": point.key, "value": point.value}
                file.write(json.dumps({**line, "step": point.step, "time_ms": point.time_ms}) + "\n")
        for index, upload in enumerate(unsent.uploads):
            shutil.move(upload.staged, folder / f"{index}-{upload.staged.name}")
    except OSError as error:
        _LOG.warning("tracking: unsent values and artifacts could not be saved to %s: %s", folder, error)
        return
    counts = f"{len(unsent.points)} metric values and {len(unsent.uploads)} artifacts"
    _LOG.warning("tracking: %s could not be sent to the store; saved to %s", counts, folder.absolute())
