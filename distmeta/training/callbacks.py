"""Code of the caller that a run calls: after every outer step, and after every evaluation during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from distmeta.program.scoring import Score


class StopTraining(Exception):
    """Raised by a callback to end the run as its last step would: with a checkpoint, the final test and the model.

    Args:
        reason: Why, for the output and `TrainResult.stopped`.
    """

    def __init__(self, reason: str = "a callback asked for it") -> None:
        super().__init__(reason)


class Callback:
    """Base class of callbacks. Its methods do nothing; override those that are needed.

    They run in the driver, between two steps. Any other exception than `StopTraining` ends the run as failed.

    Example:
        >>> class StopAt(Callback):
        ...     def on_step(self, step, metrics):
        ...         if metrics["loss"] < 0.1:
        ...             raise StopTraining("the loss is below 0.1")
        >>> distmeta.train(config, callbacks=[StopAt()])
    """

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after each outer step.

        Args:
            step: Number of outer steps made.
            metrics: Means over the tasks of the step (`loss`, `accuracy`), and `grad_norm`, `clipped`, `lr`, ... of the
                outer step.
        """

    def on_evaluation(self, step: int, scores: Sequence[Score]) -> None:
        """Called after each evaluation during training.

        Args:
            step: Number of outer steps made.
            scores: Every metric under every protocol.
        """


class Callbacks(Callback):
    """Calls several callbacks in order, and keeps the first reason to stop.

    Attributes:
        reason: Why the run is to end; None if it goes on.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)
        self.reason: str | None = None

    @override
    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        for callback in self._callbacks:
            try:
                callback.on_step(step, metrics)
            except StopTraining as stop:
                self.reason = self.reason or str(stop)

    @override
    def on_evaluation(self, step: int, scores: Sequence[Score]) -> None:
        for callback in self._callbacks:
            try:
                callback.on_evaluation(step, scores)
            except StopTraining as stop:
                self.reason = self.reason or str(stop)
