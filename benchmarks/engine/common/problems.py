"""The problems of the engine's benchmarks: one outer step's meta-gradient of a method on a network, by name.

A problem is the configuration of a run, made of the public presets. Images are drawn characters, so no data set is
needed; the content of an image does not change the cost of its gradient. This module imports no torch.

The conv4 problems are named by ways `w`, shots `s`, queries per class `q` and inner steps. They have 64 filters and
strides of 2 on 28x28 grey images, as MAML has on Omniglot (Finn et al. 2017, arXiv 1703.03400).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from distmeta.config import AlgorithmConfig, GradientConfig, RunConfig
from distmeta.config.models import Conv4Config, MlpConfig, ModelConfig
from distmeta.config.tasks import GlyphTasks, SinusoidTasks, TasksConfig
from distmeta.core.errors import UserError, nearest
from distmeta.methods import anil, maml, protonet, reptile


@dataclass(frozen=True)
class Problem:
    """A row of the benchmark.

    Attributes:
        name: Name of the row.
        about: Short description.
        config: Tasks, network and method; `train.tasks_per_step` is the number of tasks T.
    """

    name: str
    about: str
    config: RunConfig

    @property
    def num_tasks(self) -> int:
        return self.config.train.tasks_per_step

    def resized(self, tasks: int | None = None, device: str = "cpu") -> Problem:
        """The problem with T tasks (None keeps their number), on a device."""
        train = self.config.train.model_copy(update={"tasks_per_step": tasks or self.num_tasks})
        runtime = self.config.runtime.model_copy(update={"device": device})
        return replace(self, config=self.config.model_copy(update={"train": train, "runtime": runtime}))


def problem(
    name: str, about: str, tasks: TasksConfig, model: ModelConfig, algorithm: AlgorithmConfig, num_tasks: int
) -> Problem:
    """Make a problem.

    Raises:
        ValidationError: Its parts do not fit together.
    """
    values = {"tasks": tasks, "model": model, "algorithm": algorithm, "train": {"tasks_per_step": num_tasks}}
    return Problem(name, about, RunConfig.model_validate({"name": name, **values}))


def images(way: int, shots: int, queries: int, size: int = 28) -> GlyphTasks:
    return GlyphTasks(way=way, shots=shots, queries=queries, size=size)


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """Set the number of inner steps of every phase; a learner without inner steps stays as it is."""
    learner = config.algorithm.learner
    if not isinstance(learner, GradientConfig):
        return config
    phases = tuple(phase.model_copy(update={"steps": steps}) for phase in learner.phases)
    algorithm = config.algorithm.model_copy(update={"learner": learner.model_copy(update={"phases": phases})})
    return config.model_copy(update={"algorithm": algorithm})


_SINE, _MLP = SinusoidTasks(), MlpConfig(hidden=(40, 40))
_CONV4, _IMAGES = Conv4Config(), images(5, 1, 15)
_MAML5 = maml(lr=0.1, steps=5)
_ROWS = (
    problem("sine_100x5", "MAML, MLP 1-40-40-1, 100 tasks, 5 steps", _SINE, _MLP, maml(lr=0.01, steps=5), 100),
    problem("sine_25x1", "MAML, MLP 1-40-40-1, 25 tasks, 1 step", _SINE, _MLP, maml(lr=0.01), 25),
    problem("conv4_5w1s_15q_1", "MAML, 5-way 1-shot, 15 queries, 1 step", _IMAGES, _CONV4, maml(), 32),
    problem("conv4_5w1s_1q_5", "MAML, 5-way 1-shot, 1 query, 5 steps", images(5, 1, 1), _CONV4, maml(steps=5), 32),
    problem("conv4_20w5s_5q_5", "MAML, 20-way 5-shot, 5 queries, 5 steps", images(20, 5, 5), _CONV4, _MAML5, 4),
    problem("protonet_conv4", "ProtoNet, 20-way 1-shot, 5 queries", images(20, 1, 5), _CONV4, protonet(), 16),
    problem("anil_conv4", "ANIL, 5-way 1-shot, 15 queries, 5 steps of the head", _IMAGES, _CONV4, anil(), 32),
    problem(
        "reptile_conv4", "Reptile, 5-way, 10 training shots, 5 Adam steps of 10", images(5, 10, 1), _CONV4, reptile(), 5
    ),
)
PROBLEMS: dict[str, Problem] = {row.name: row for row in _ROWS}


def find_problem(name: str, where: str) -> Problem:
    """The problem of this name.

    Raises:
        UserError: There is none; `where` is the option that names it.
    """
    if name not in PROBLEMS:
        raise UserError(f"unknown row '{name}'", where=where, allowed=nearest(name, PROBLEMS))
    return PROBLEMS[name]
