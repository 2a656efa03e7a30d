"""An environment of your own: a point on a line, drawn to a place that it is not told.

    distmeta train jobs/examples/own_environment.py

A simulator is pure functions of named tensors [T, N, ...], for all N trajectories of all T tasks at once.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distmeta import methods
from distmeta.config import EvaluationConfig, OuterConfig, PolicyConfig, RunConfig, RuntimeConfig, TrainConfig
from distmeta.core import seeding
from distmeta.core.types import Batch, Params
from distmeta.tasks import TaskSource
from distmeta.tasks.interaction import Outcome, Rollouts, Simulator


class Line(Simulator):
    horizon, action_size = 50, 1

    def start(self, rows: Batch, draws: Tensor) -> Params:
        return {"x": rows.inputs, "place": rows["place"]}

    def observe(self, state: Params) -> Tensor:
        return state["x"]

    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        x = state["x"] + 0.1 * actions.clamp(-1, 1)
        distance = (x - state["place"]).abs().squeeze(-1)
        return Outcome({**state, "x": x}, -distance, distance < 0.01)


class LineTasks(TaskSource):
    input_shape, num_outputs, objective = (1,), 2, "policy_gradient"

    def __init__(self, seed: int, dtype: torch.dtype, trajectories: int = 10) -> None:
        self.supply, self.trajectories, self.dtype = Rollouts(Line()), trajectories, dtype
        self.train_outputs = {"support": 2, "query": 2}

    def batches(self, split: str, seeds: seeding.Uint64, roles: Sequence[str]) -> Mapping[str, Batch]:
        place = torch.from_numpy(2 * seeding.uniform(seeds, "place", 1) - 1).to(self.dtype)
        rows = place[:, None].expand(-1, self.trajectories, -1).contiguous()
        return {role: Batch(torch.zeros_like(rows), place=rows) for role in roles}


def config() -> RunConfig:
    return RunConfig(
        name="line",
        tasks=LineTasks,
        model=PolicyConfig(hidden=(32, 32)),
        algorithm=methods.maml_rl(),
        outer=OuterConfig(optimizer="Adam", lr=3e-3),
        train=TrainConfig(steps=100, tasks_per_step=20),
        runtime=RuntimeConfig(shard_size=10),
        evaluation=EvaluationConfig(every=50, tasks=40, final_tasks=100),
    )
