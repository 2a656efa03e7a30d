"""The training by distmeta; it goes on from its newest checkpoint, if there is one.

python -m benchmarks.faults.by_distmeta FOLDER FORM STEPS
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

import distmeta
from benchmarks.faults.job import config
from distmeta.config.load import change
from distmeta.training.callbacks import Callback


class Journal(Callback):
    """Writes a line for each step."""

    def __init__(self, path: Path, steps: int) -> None:
        self._path, self._steps = path, steps

    @override
    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.write(f"step {step}/{self._steps}")

    def write(self, line: str) -> None:
        with self._path.open("a") as journal:
            journal.write(f"{line}\n")


def main() -> None:
    folder, form, steps = Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3])
    journal = Journal(folder / "journal", steps)
    job = change(config(form, steps), [f"checkpoint.path={folder / 'runs'}"])
    journal.write(f"digest {distmeta.train(job, resume='auto', callbacks=[journal]).digest}")


if __name__ == "__main__":
    main()
