"""Pictures of a finished run, drawn with small networks that have not been trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from distmeta.config import (
    Conv4Config,
    EngineConfig,
    GlyphTasks,
    MlpConfig,
    NavigationTasks,
    PolicyConfig,
    RunConfig,
    RuntimeConfig,
    SinusoidTasks,
)
from distmeta.core.types import Episode
from distmeta.methods import maml, maml_rl, protonet, rl2
from distmeta.models.network import Network
from distmeta.program.program import MetaProgram
from distmeta.program.scoring import Score
from distmeta.tracking import plots
from distmeta.training import pictures as module
from distmeta.training.pictures import keep_pictures, local_folder

from ...adapting import adapt, predict
from ...fakes_training import FakeTracker

CONFIGS = {
    "waves": RunConfig(
        name="waves",
        tasks=SinusoidTasks(shots=3, eval_queries=6),
        model=MlpConfig(hidden=(4,)),
        algorithm=maml(lr=0.01, steps=4, eval_steps=None),
        engine=EngineConfig(strategy="loop"),
        runtime=RuntimeConfig(executor="local"),
    ),
    "walks": RunConfig(
        name="walks",
        tasks=NavigationTasks(shots=3, eval_queries=4, horizon=7),
        model=PolicyConfig(hidden=(4,)),
        algorithm=maml_rl(eval_steps=2),
        engine=EngineConfig(strategy="loop"),
        runtime=RuntimeConfig(executor="local"),
    ),
    "trials": RunConfig(
        name="trials",
        tasks=NavigationTasks(shots=3, eval_queries=4, horizon=5, episodes=2),
        model=PolicyConfig(hidden=(4,), memory=3),
        algorithm=rl2(),
        engine=EngineConfig(strategy="loop"),
        runtime=RuntimeConfig(executor="local"),
    ),
    "images": RunConfig(
        name="images",
        tasks=GlyphTasks(way=2, size=16, eval_queries=2),
        model=Conv4Config(filters=2),
        algorithm=protonet(),
        engine=EngineConfig(strategy="loop"),
        runtime=RuntimeConfig(executor="local"),
    ),
}
SCORES = [
    Score("inductive", metric, (0, 1, 4), (0.2, 0.5, 0.9), (0.1, 0.1, 0.05), 20) for metric in ("loss", "accuracy")
]


@pytest.fixture(params=CONFIGS)
def program(request: pytest.FixtureRequest) -> Iterator[MetaProgram]:
    program = MetaProgram(CONFIGS[request.param])
    yield program
    program.close()


@pytest.mark.thorough
def test_pictures_are_artifacts_and_stay_in_the_folder(program: MetaProgram, tmp_path: Path) -> None:
    tracker, folder = FakeTracker(), tmp_path / "run" / "pictures"
    params = program.algorithm.learner.init(0)
    paths = keep_pictures(program, params, SCORES, "inductive", tracker, folder)
    assert paths == [folder / "adaptation_curve.png", folder / "sample_tasks.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert tracker.artifacts == [("adaptation_curve.png", "pictures"), ("sample_tasks.png", "pictures")]


class Drawn:
    """Replaces the plots: writes empty files, and keeps what was to be drawn."""

    Fit, Walks, steps_label = plots.Fit, plots.Walks, staticmethod(plots.steps_label)

    def __init__(self) -> None:
        self.curves: dict[str, object] = {}
        self.options: dict[str, object] = {}
        self.fits: list[plots.Fit] = []
        self.tasks: list[plots.Walks] = []
        self.samples: dict[str, object] = {}

    def adaptation_curve(self, path: Path, curves: dict[str, object], **options: object) -> None:
        path.touch()
        self.curves, self.options = curves, options

    def regression_fits(self, path: Path, fits: list[plots.Fit]) -> None:
        path.touch()
        self.fits = fits

    def walks(self, path: Path, tasks: list[plots.Walks]) -> None:
        path.touch()
        self.tasks = tasks

    def sample_tasks(self, path: Path, **samples: object) -> None:
        path.touch()
        self.samples = samples


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    drawn = Drawn()
    monkeypatch.setattr(module, "plots", drawn)
    return drawn


def sample_tasks(program: MetaProgram) -> Episode:
    return program.source.episodes(program.source.specs("test", 0, module.NUM_SAMPLES))


def test_without_scores_or_folder_there_are_only_sample_tasks(program: MetaProgram, drawn: Drawn) -> None:
    tracker = FakeTracker()
    assert keep_pictures(program, program.algorithm.learner.init(0), [], "inductive", tracker, None) == []
    assert tracker.artifacts == [("sample_tasks.png", "pictures")]
    assert drawn.curves == {}


@pytest.mark.parametrize(("scores", "metric"), [(SCORES, "accuracy"), (SCORES[:1], "loss")])
def test_the_curve_is_that_of_accuracy_or_else_loss(
    program: MetaProgram, drawn: Drawn, scores: list[Score], metric: str
) -> None:
    keep_pictures(program, program.algorithm.learner.init(0), scores, "inductive", FakeTracker(), None)
    assert drawn.curves == {"inductive": ((0, 1, 4), (0.2, 0.5, 0.9), (0.1, 0.1, 0.05))}
    assert drawn.options == {"ylabel": metric, "title": "20 unseen tasks, 95% intervals"}


@pytest.mark.parametrize("program", ["waves"], indirect=True)
def test_fits_are_predictions_after_no_one_and_all_steps(program: MetaProgram, drawn: Drawn) -> None:
    params = program.algorithm.learner.init(0)
    keep_pictures(program, params, [], "inductive", FakeTracker(), None)
    learner, episode = program.algorithm.evaluators["inductive"], sample_tasks(program)
    assert len(drawn.fits) == module.NUM_SAMPLES
    for t, fit in enumerate(drawn.fits):
        task = episode.map(lambda tensor, t=t: tensor[t])
        x, y = task.query.tensors()
        order = x[:, 0].argsort()
        assert fit.grid.tolist() == x[order, 0].tolist(), "sorted"
        assert fit.truth[1].tolist() == y[order, 0].tolist()
        assert fit.support[0].tolist() == task.support.inputs[:, 0].tolist()
        assert list(fit.predictions) == [0, 1, 4]
        before = learner.forward(Network(learner.backbone), params, x[order])[:, 0]
        after = predict(learner, params, adapt(learner, params, task.support), task.support, x[order])[:, 0]
        for steps, expected in ((0, before), (4, after)):
            torch.testing.assert_close(torch.from_numpy(fit.predictions[steps]), expected)


@pytest.mark.parametrize("program", ["walks"], indirect=True)
def test_walks_are_trajectories_to_the_goal_of_the_task(program: MetaProgram, drawn: Drawn) -> None:
    keep_pictures(program, program.algorithm.learner.init(0), [], "inductive", FakeTracker(), None)
    goals = sample_tasks(program).query["goals"]
    assert len(drawn.tasks) == module.NUM_SAMPLES
    for t, task in enumerate(drawn.tasks):
        assert task.goal.tolist() == goals[t, 0].tolist()
        assert list(task.paths) == ["before", "after 1 step", "after 2 steps"]
        assert all(paths.shape == (module.NUM_PATHS, 7, 2) and not paths[:, 0].any() for paths in task.paths.values())
        before, after, _ = task.paths.values()
        assert (before[:, 1] != after[:, 1]).any()


@pytest.mark.parametrize("program", ["trials"], indirect=True)
def test_trials_are_drawn_by_episode(program: MetaProgram, drawn: Drawn) -> None:
    keep_pictures(program, program.algorithm.learner.init(0), [], "inductive", FakeTracker(), None)
    for task in drawn.tasks:
        assert list(task.paths) == ["episode 1", "episode 2"]
        for number, paths in enumerate(task.paths.values()):
            own = slice(5 * number, 5 * number + 5)
            assert paths.shape == (module.NUM_PATHS, 10, 2)
            assert np.isfinite(paths[:, own]).all()
            assert np.isnan(paths).sum() == paths.size // 2
            assert not paths[:, own.start].any()


@pytest.mark.parametrize("program", ["images"], indirect=True)
def test_sample_images_come_with_predictions_of_the_protocol(program: MetaProgram, drawn: Drawn) -> None:
    params = program.algorithm.learner.init(0)
    for protocol, learner in program.algorithm.evaluators.items():
        keep_pictures(program, params, [], protocol, FakeTracker(), None)
        episode = sample_tasks(program)
        labels = []
        for t in range(module.NUM_SAMPLES):
            task = episode.map(lambda tensor, t=t: tensor[t])
            fast = adapt(learner, params, task.support)
            labels.append(predict(learner, params, fast, task.support, task.query.inputs).argmax(-1).tolist())
        assert drawn.samples["predictions"].tolist() == labels  # type: ignore[attr-defined]
        assert drawn.samples["support_images"].shape == (3, 2, 1, 16, 16)  # type: ignore[attr-defined]
        assert drawn.samples["query_images"].shape == (3, 4, 1, 16, 16)  # type: ignore[attr-defined]


def test_a_local_folder_is_used_in_place(tmp_path: Path) -> None:
    for url in (str(tmp_path), f"file://{tmp_path}"):
        with local_folder(url) as folder:
            assert folder == tmp_path


def test_a_remote_folder_is_copied_and_the_copy_removed() -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/pictures-test/step-1/state.json", b"{}")
    with local_folder("memory://pictures-test/step-1") as folder:
        assert (folder.name, (folder / "state.json").read_bytes()) == ("step-1", b"{}")
    assert not folder.exists()
    files.rm("/pictures-test", recursive=True)
