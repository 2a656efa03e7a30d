"""A problem ready to compute: learner, estimator, terms, meta-parameters and the episodes of one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from distmeta.config import EngineConfig, RunConfig
from distmeta.core.types import Episode, Params
from distmeta.engine.engine import Engine
from distmeta.engine.lanes import Lanes
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.base import Learner
from distmeta.methods.terms import OuterTerm
from distmeta.tasks import build_source


@dataclass(frozen=True)
class Workload:
    """The input of every contender; `objective` is the name of the inner loss."""

    config: RunConfig
    learner: Learner
    estimator: Estimator
    terms: tuple[OuterTerm, ...]
    meta: Params
    episodes: Episode
    objective: str

    @property
    def num_tasks(self) -> int:
        return self.episodes.num_tasks

    def engine(self, config: EngineConfig, lanes: Lanes | int = 1) -> Engine:
        """An engine of this method."""
        return Engine(self.learner, self.estimator, self.terms, config, lanes)

    def gradient(self, engine: Engine) -> Params:
        """The engine's outer gradient, summed over the tasks: zeros for meta-parameters without a signal."""
        grad = engine.update(self.meta, self.episodes)[0].grad
        return {name: grad[name] if name in grad else torch.zeros_like(tensor) for name, tensor in self.meta.items()}

    def tasks(self) -> list[Episode]:
        """The tasks one by one, without a task axis."""
        return [self.episodes.map(lambda tensor, t=t: tensor[t]) for t in range(self.num_tasks)]  # type: ignore[misc]

    def only(self, task: int) -> Workload:
        return replace(self, episodes=self.episodes.map(lambda tensor: tensor[task : task + 1]))

    def copies(self, task: int) -> Workload:
        """As many tasks as there are, all of them this one: what is compiled for that many needs no other graph."""
        return replace(self, episodes=self.episodes.select([task] * self.num_tasks))

    def at_step(self, step: int) -> Workload:
        """The same method and meta-parameters with the tasks of another step."""
        return replace(self, episodes=make_workload(self.config, step).episodes)

    def as_type(self, dtype: torch.dtype) -> Workload:
        """The same values in another floating-point type."""
        meta = {name: tensor.to(dtype) for name, tensor in self.meta.items()}
        episodes = self.episodes.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return replace(self, meta=meta, episodes=episodes)


def make_workload(config: RunConfig, step: int = 0) -> Workload:
    """Build the problem's method and the tasks of a step on `config.runtime.device`."""
    source = build_source(config.tasks, config.seed, dtype_of(config))
    algorithm = build_algorithm(config, source.signature)
    device = config.runtime.device
    meta = {name: tensor.to(device) for name, tensor in algorithm.learner.init(config.seed).items()}
    specs = source.specs("train", step, config.train.tasks_per_step)
    episodes = source.episodes(specs, algorithm.train_roles).map(lambda tensor: tensor.to(device))
    parts = (algorithm.learner, algorithm.estimator, algorithm.terms)
    return Workload(config, *parts, meta, episodes, source.objective)
