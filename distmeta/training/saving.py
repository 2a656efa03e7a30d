"""The checkpoints of a run: when saving works, when it fails, and that of the best evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from distmeta import checkpoint as checkpoints
from distmeta.config import RunConfig
from distmeta.core.errors import UserError
from distmeta.core.signals import SignalGuard
from distmeta.server.outer import State
from distmeta.tasks.base import TaskSource
from distmeta.tracking.base import Tracker
from distmeta.training.procedure import Procedure
from distmeta.training.selection import Evaluated, Selection


@dataclass(frozen=True)
class _Content:
    """What a checkpoint holds."""

    step: int
    state: State
    score: float | None
    progress: Mapping[str, float]


class Saving:
    """Saves the checkpoints of a run.

    Args:
        config: The run.
        procedure: Has the state to save.
        source: The tasks; their sizes and vocabulary are saved.
        run_id: The tracker's id of the run.
        tracker: Has values that its store has not confirmed.
        guard: Keeps signals from interrupting a save.
        selection: Gets the path of the best evaluation's checkpoint.
        progress: Returns the state of the training loop.
        checkpoint: The one that the run is resumed from.

    Attributes:
        config: The run; its engine is fixed after this has been made.
        path: The newest checkpoint; None before the first.
        unsaved: Whether steps have been made since then.
    """

    def __init__(
        self,
        config: RunConfig,
        procedure: Procedure,
        source: TaskSource,
        run_id: str | None,
        tracker: Tracker,
        guard: SignalGuard,
        selection: Selection,
        progress: Callable[[], dict[str, float]],
        checkpoint: checkpoints.Checkpoint | None,
    ) -> None:
        self.config, self._procedure, self._source = config, procedure, source
        self._run_id, self._tracker, self._guard = run_id, tracker, guard
        self._selection, self._progress, self._checkpoint = selection, progress, checkpoint
        self.path, self.unsaved = checkpoint.path if checkpoint else None, False
        self._saver = checkpoints.Saver()
        self._late: _Content | None = None  # of the best evaluation, whose own save failed

    @property
    def failures(self) -> int:
        """Number of failed attempts."""
        return self._saver.failures

    @property
    def overdue(self) -> bool:
        """Whether a save has failed and its retry is due."""
        return self._saver.overdue()

    def save(self, score: float | None = None) -> None:
        """Save a checkpoint; if the storage fails, training goes on and it is tried again later.

        Args:
            score: That of this step's evaluation; higher is better.
        """
        content = self._content(score)
        path = self._save(content)
        if path is not None:
            self.path, self.unsaved = path, False
        best = self._selection.best
        if best is None or best.path is not None:
            return
        if best.step == content.step:
            self._keep_best(content, path)
        elif path is not None and self._late is not None:
            self._keep_best(self._late, self._save(self._late))

    def finish(self) -> None:
        """Save the last checkpoint if that has not been done.

        Raises:
            StoreError: The storage fails for too long.
        """
        if not self.unsaved:
            return
        is_best = self._late is not None and self._late.step == self._procedure.server.version
        content = self._late if self._late is not None and is_best else self._content(None)
        self.path, self.unsaved = self._saver.final(lambda: self._write(content)), False
        if is_best:
            self._keep_best(content, self.path)

    def move_old(self) -> str | None:
        """Put away checkpoints that are not of this run, and save the first one if there is none.

        Returns:
            Where an earlier run of this name is now; None if there was none.
        """
        moved = None
        if self._checkpoint is not None:
            checkpoints.set_aside(self.config, self._checkpoint.step)
            self._load_best(self._checkpoint)
        elif self.path is None:
            moved = checkpoints.retire(self.config.checkpoint.path, self.config.name)
            self.save()
        return moved

    def _load_best(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Find the best of the evaluated parameters again, in a run that is resumed."""
        if self._selection.best_step is None:
            return
        with contextlib.suppress(UserError):  # it is damaged: a later one is tested
            best = checkpoints.load(checkpoint.path.rstrip("/").rpartition("/")[0], "best")
            if best.score is not None:
                self._selection.best = Evaluated(best.step, {**best.averaged, **best.buffers}, best.path)

    def _keep_best(self, content: _Content, path: str | None) -> None:
        assert self._selection.best is not None
        self._selection.best = replace(self._selection.best, path=path)
        self._late = content if path is None else None

    def _save(self, content: _Content) -> str | None:
        with self._guard.shielded():
            return self._saver.save(lambda: self._write(content))

    def _content(self, score: float | None) -> _Content:
        return _Content(self._procedure.server.version, self._procedure.state_dict(), score, self._progress())

    def _write(self, content: _Content) -> str:
        return checkpoints.save(
            self.config,
            content.step,
            content.state,
            signature=self._source.signature,
            run_id=self._run_id,
            score=content.score,
            progress=content.progress,
            pending=self._tracker.pending(),
            words=self._source.words,
        )
