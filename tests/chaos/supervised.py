"""A run whose driver is started again whenever it ends before its time, as a supervisor such as systemd would."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from distmeta.config import RunConfig
from distmeta.config.load import change, to_yaml

from .place import Place
from .sessions import Session

REFUSED = 2
"""Exit code of a command that cannot begin."""
ENDLESS = 1_000_000
SAVING_FAILS = "checkpoint: saving fails"
_STEP = re.compile(r"^step (\d+)", re.MULTILINE)
_MEANWHILE_S = 2.0


class Run:
    """A run, its driver's lives and what they tell.

    Args:
        place: Where it runs.
        config: The run; it has no end before `finish`.
        folder: Where its configuration lies.

    Attributes:
        lives: Drivers so far.
        refusals: Drivers that ended by themselves at their start, since the store was away.
    """

    def __init__(self, place: Place, config: RunConfig, folder: Path) -> None:
        self._place, self._name = place, config.name
        changes = [f"train.steps={ENDLESS}", f"tracking.uri={place.mlflow}", f"runtime.address={place.address}"]
        self._job = folder / f"{config.name}.yaml"
        self._job.write_text(to_yaml(change(config, [*changes, f"checkpoint.path={place.runs}"])))
        self.lives = self.refusals = 0
        self._last = 0
        self._start_at: float | None = 0.0
        self._options: tuple[str, ...] = ()
        self.driver: Session | None = None

    @property
    def alive(self) -> bool:
        """Whether a driver runs."""
        return self.driver is not None and self.driver.alive

    @property
    def at_work(self) -> bool:
        """Whether a driver runs that has made a step."""
        return self.alive and bool(_STEP.search(self.said()))

    @property
    def born(self) -> float:
        """When the present driver was started, in seconds since 1970."""
        return self._born

    def step(self) -> int:
        """The last step that is known of."""
        steps = [int(step) for step in _STEP.findall(self.said())]
        self._last = max(self._last, *steps, self.saved()) if steps else max(self._last, self.saved())
        return self._last

    def saved(self) -> int:
        """The step of the newest checkpoint; 0 where there is none."""
        return max((int(path.parent.name[5:]) for path in self._folder.glob("step-*/state.json")), default=0)

    def state(self) -> dict[str, Any]:
        """What the newest checkpoint tells."""
        found: dict[str, Any] = json.loads((self._folder / f"step-{self.saved():08d}" / "state.json").read_text())
        return found

    def said(self) -> str:
        """What the present driver has written."""
        return self.driver.log.read_text(errors="replace") if self.driver else ""

    def look_after(self, *, may_be_refused: bool) -> None:
        """Start the driver again if it has ended.

        Args:
            may_be_refused: Whether it may rightly end by itself.

        Raises:
            AssertionError: It ended by itself, and may not.
        """
        if self.alive:
            return
        if self._start_at is None:
            assert self.driver is not None
            code = self.driver.leader.returncode
            assert code == REFUSED and may_be_refused, f"the driver ended with {code}: {self.said()[-4000:]}"
            self.refusals += 1
            self._start_at = time.monotonic() + _MEANWHILE_S
        if time.monotonic() >= self._start_at:
            self._start()

    def kill(self, meanwhile_s: float) -> None:
        """Kill the driver; it is started again after so many seconds."""
        assert self.driver is not None
        self.driver.end()
        self._start_at = time.monotonic() + meanwhile_s

    def finish(self, steps: int) -> None:
        """Let the run end after so many steps: end the driver, and start the last one."""
        self.kill(0.0)
        self._options = ("--set", f"train.steps={steps}")
        self._start()

    @property
    def _folder(self) -> Path:
        return self._place.runs / self._name

    def _start(self) -> None:
        self.lives += 1
        self._start_at, self._born = None, time.time()
        command = [sys.executable, "-m", "distmeta", "train", str(self._job), "--auto-resume", *self._options]
        self.driver = self._place.sessions.start(f"driver-{self.lives}", command)
