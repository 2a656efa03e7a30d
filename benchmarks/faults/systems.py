"""The systems: what starts each of them, and which of its processes are workers.

Each writes a line `step N/M` into `journal` in its folder for every step, and `digest ...` at the end.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class System:
    """A system that trains.

    Attributes:
        title: Its name in the table.
        module: What begins the training, or goes on with it.
        worker: How the titles of its workers' processes begin.
    """

    title: str
    module: str
    worker: str

    def command(self, folder: Path, form: str, steps: int) -> list[str]:
        """The command that begins, or goes on."""
        return [sys.executable, "-m", self.module, str(folder), form, str(steps)]


SYSTEMS = {
    "distmeta": System("distmeta", "benchmarks.faults.by_distmeta", "ray::WorkerActor"),
    "ray_train": System("Ray Train", "benchmarks.faults.by_ray_train", "ray::RayTrainWorker"),
}
