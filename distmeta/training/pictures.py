"""Pictures of a finished run: adaptation curves, and sample test tasks with predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt
import torch

from distmeta.core.types import EPISODES, QUERY, SUPPORT, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.engine.ops import EagerOps
from distmeta.methods.estimators.base import State, Visit
from distmeta.program.program import MetaProgram
from distmeta.program.scoring import HIGHER_IS_BETTER, Score
from distmeta.tasks import TaskSource
from distmeta.tracking import plots
from distmeta.tracking.base import Tracker

NUM_SAMPLES = 3
NUM_PATHS = 3
"""Trajectories of a sample task that are drawn."""
FOLDER = "pictures"


def keep_pictures(
    program: MetaProgram, params: Params, scores: Sequence[Score], protocol: str, tracker: Tracker, folder: Path | None
) -> list[Path]:
    """Draw the pictures of a run and log them as artifacts.

    Args:
        program: The run's tasks and learners.
        params: The meta-parameters that were evaluated.
        scores: Scores of the final evaluation; if there are none, no adaptation curve is drawn.
        protocol: The protocol of the sample tasks' predictions.
        tracker: Where artifacts are logged.
        folder: A local folder that keeps the pictures; None keeps no local copy.

    Returns:
        Paths of the pictures in `folder`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = folder or Path(scratch)
        target.mkdir(parents=True, exist_ok=True)
        pictures = []
        if scores:
            pictures.append(_draw_curve(target / "adaptation_curve.png", scores))
        draw = _drawing(program.source)
        if draw is not None:
            count = min([NUM_SAMPLES, *(score.tasks for score in scores)])  # each is adapted to once more
            episode = program.episodes(program.source.specs("test", 0, count))
            learner = _Trained(one_by_one(program.algorithm.evaluators[protocol]), params, program.algorithm.eval_head)
            pictures.append(draw(target / "sample_tasks.png", learner, episode))
        for picture in pictures:
            tracker.artifact(picture, FOLDER)
    return pictures if folder else []


@contextmanager
def local_folder(url: str) -> Iterator[Path]:
    """The folder at an fsspec URL as a local path; a remote folder is copied, and the copy deleted on exit."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if "file" in ([filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / Path(path).name
        filesystem.get(path, str(target), recursive=True)
        yield target


def _draw_curve(path: Path, scores: Sequence[Score]) -> Path:
    metrics = [score.metric for score in scores]
    metric = next((metric for metric in HIGHER_IS_BETTER if metric in metrics), "loss")
    curves = [score for score in scores if score.metric == metric]
    plots.adaptation_curve(
        path,
        {score.protocol: (score.points, score.mean, score.interval) for score in curves},
        ylabel=metric,
        title=f"{curves[0].tasks} unseen tasks, 95% intervals",
    )
    return path


class _Trained(NamedTuple):
    """A trained learner, for one task at a time.

    Attributes:
        ops: How it adapts.
        params: Meta-parameters and running statistics.
        head: The head that its predictions go through.
    """

    ops: EagerOps
    params: Params
    head: str

    def predict(self, state: State, task: Episode, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs [B, O] for `inputs` [B, ...]."""
        return self.ops.predict(self.params, state, task, inputs.unsqueeze(0), head=self.head)[0]


def _drawing(source: TaskSource) -> Callable[[Path, _Trained, Episode], Path] | None:
    """How sample tasks are drawn; None if they are neither images, functions of one number, nor walks in the plane."""
    if source.supply is not None:
        in_the_plane = (2 + source.num_outputs // 2 + 2,) if source.in_order else (2,)
        return _draw_walks if source.input_shape == in_the_plane else None
    if source.objective == "cross_entropy":
        return _draw_images if len(source.input_shape) == 3 else None
    return _draw_fits if (source.input_shape, source.num_outputs) == ((1,), 1) else None


def _draw_images(path: Path, learner: _Trained, episode: Episode) -> Path:
    batch = episode.query
    # What adapts without labels reads no support set.
    support = episode.roles.get(SUPPORT, batch.map(lambda tensor: tensor[:, :0]))
    assert support.targets is not None and batch.targets is not None
    predictions = []
    for task in _tasks(episode):
        outputs = learner.predict(learner.ops.adapt(learner.params, task), task, task.query.inputs[0])
        predictions.append(outputs.argmax(-1))
    plots.sample_tasks(
        path,
        support_images=support.inputs.numpy(),
        support_labels=support.targets.numpy(),
        query_images=batch.inputs.numpy(),
        query_labels=batch.targets.numpy(),
        predictions=torch.stack(predictions).numpy(),
    )
    return path


def _draw_fits(path: Path, learner: _Trained, episode: Episode) -> Path:
    """Regression from one number to one number: the true curve, and fits before and after adaptation."""
    fits = []
    for task in _tasks(episode):
        support, query = (task[role].map(lambda tensor: tensor[0]) for role in (SUPPORT, QUERY))
        assert support.targets is not None and query.targets is not None
        grid, order = query.inputs.sort(dim=0)
        predictions = _predictions(learner, task, grid)
        fits.append(
            plots.Fit(
                support=(support.inputs[:, 0].numpy(), support.targets[:, 0].numpy()),
                truth=(grid[:, 0].numpy(), query.targets[order[:, 0], 0].numpy()),
                grid=grid[:, 0].numpy(),
                predictions={steps: values[:, 0].numpy() for steps, values in predictions.items()},
            )
        )
    plots.regression_fits(path, fits)
    return path


def _draw_walks(path: Path, learner: _Trained, episode: Episode) -> Path:
    """Policies that see where they are: trajectories before and after adaptation, or by episode; and the goal."""
    walks = []
    for task in _tasks(episode):
        paths: dict[str, npt.NDArray[np.float64]] = {}
        for visit in _visits(learner, task):
            assert task.supply is not None
            act = learner.ops.acting(learner.params, visit.state, task, learner.head)
            batch = task.supply(task, QUERY, 0, act).map(lambda tensor: tensor[0, :NUM_PATHS])
            positions, alive = batch.inputs[..., :2], batch["mask"] != 0
            parts = {plots.steps_label(visit.k): alive}
            if EPISODES in batch:
                each = batch[EPISODES].bool().unbind(-1)
                parts = {f"episode {number}": alive & own for number, own in enumerate(each, start=1)}
            paths |= {label: _only(positions, own) for label, own in parts.items()}
        walks.append(plots.Walks(task.query["goals"][0, 0].numpy(), paths))
    plots.walks(path, walks)
    return path


def _only(positions: torch.Tensor, own: torch.Tensor) -> npt.NDArray[np.float64]:
    """Positions [N, P, 2] of some steps [N, P]; NaN elsewhere."""
    array: npt.NDArray[np.float64] = positions.masked_fill(~own[..., None], torch.nan).double().numpy()
    return array


def _tasks(episode: Episode) -> Iterator[Episode]:
    """The tasks of a shard one by one, each with a task axis of size 1."""
    for t in range(episode.num_tasks):
        yield episode.map(lambda tensor, t=t: tensor[t : t + 1])  # type: ignore[misc]


def _predictions(learner: _Trained, task: Episode, grid: torch.Tensor) -> dict[int, torch.Tensor]:
    """Predictions on the grid after 0, 1 and all inner steps, by number of steps."""
    return {visit.k: learner.predict(visit.state, task, grid) for visit in _visits(learner, task)}


def _visits(learner: _Trained, task: Episode) -> Iterator[Visit]:
    """The states after 0, 1 and all inner steps."""
    steps = (0, 1, learner.ops.num_steps(task))
    return (visit for visit in learner.ops.walk(learner.params, task, marks=steps) if visit.k in steps)
