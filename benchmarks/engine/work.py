"""A problem made ready to compute: learner, estimator, meta-parameters and the episodes of one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from distmeta.config import RunConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.tasks import build_source


@dataclass(frozen=True)
class Work:
    """What every contender is given.

    Attributes:
        config: The problem's configuration.
        learner, estimator: The method, for the engine.
        meta: Meta-parameters.
        episodes: T tasks.
        objective: Name of the inner loss.
    """

    config: RunConfig
    learner: Learner
    estimator: Estimator
    meta: Params
    episodes: Episode
    objective: str

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.episodes.num_tasks

    def tasks(self) -> list[Episode]:
        """The tasks one by one, without a task axis."""
        return [self.episodes.map(lambda tensor, t=t: tensor[t]) for t in range(self.num_tasks)]  # type: ignore[misc]

    def first_task(self) -> Work:
        """The same with the first task only."""
        return self.only(0)

    def only(self, task: int) -> Work:
        """The same with one task only."""
        return replace(self, episodes=self.episodes.map(lambda tensor: tensor[task : task + 1]))

    def as_type(self, dtype: torch.dtype) -> Work:
        """The same values of another floating-point type."""
        meta = {name: tensor.to(dtype) for name, tensor in self.meta.items()}
        episodes = self.episodes.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return replace(self, meta=meta, episodes=episodes)


def make_work(config: RunConfig) -> Work:
    """Make a problem's method and its first step's tasks, on `config.runtime.device`."""
    source = build_source(config.tasks, config.seed, dtype_of(config))
    algorithm = build_algorithm(config, source.signature)
    device = config.runtime.device
    meta = {name: tensor.to(device) for name, tensor in algorithm.learner.init(config.seed).items()}
    episodes = source.episodes(source.specs("train", 0, config.train.tasks_per_step))
    episodes = episodes.map(lambda tensor: tensor.to(device))
    return Work(config, algorithm.learner, algorithm.estimator, meta, episodes, source.objective)
