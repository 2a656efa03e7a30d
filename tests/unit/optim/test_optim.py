"""Learned optimizers in training loops of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import distmeta
from distmeta.config import (
    AdamRuleConfig,
    CheckpointConfig,
    EngineConfig,
    EvaluationConfig,
    LstmRuleConfig,
    MlpConfig,
    MlpRuleConfig,
    OuterConfig,
    QuadraticTasks,
    RunConfig,
    RuntimeConfig,
    TrackingConfig,
    TrainConfig,
)
from distmeta.core.errors import UserError
from distmeta.methods import evolved_optimizer, maml
from distmeta.program.own_loop import build
from distmeta.tasks.base import SPLITS
from distmeta.training import train

STEPS = 6
RULES = {
    "lstm": LstmRuleConfig(width=5),
    "mlp": MlpRuleConfig(width=6, nominal=1.0, scale=0.05),
    "adam": AdamRuleConfig(lr=0.03),
}


def config_of(folder: Path, algorithm: Any, name: str = "optimizer") -> RunConfig:
    return RunConfig(
        name=name,
        tasks=QuadraticTasks(size=4, rows=6),
        model=MlpConfig(hidden=(3,)),
        algorithm=algorithm,
        outer=OuterConfig(lr=0.01),
        engine=EngineConfig(strategy="vmap", dtype="float64"),
        train=TrainConfig(steps=2, tasks_per_step=4),
        runtime=RuntimeConfig(executor="local", shard_size=2),
        evaluation=EvaluationConfig(final_tasks=0),
        checkpoint=CheckpointConfig(path=str(folder)),
        tracking=TrackingConfig(kind="none", model=False),
    )


@pytest.fixture(params=RULES)
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> RunConfig:
    """The configuration of a run that has trained an optimizer for two steps."""
    config = config_of(tmp_path, evolved_optimizer(STEPS, 2, 4, rule=RULES[request.param]))
    train(config, quiet=True)
    return config


def folder_of(config: RunConfig) -> str:
    return f"{config.checkpoint.path}/{config.name}"


def network(params: Tensor) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    nn.utils.vector_to_parameters(params.clone(), module.parameters())
    return module


def fit(module: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: range) -> None:
    for k in steps:
        rows = [(4 * k + i) % 6 for i in range(4)]
        optimizer.zero_grad()
        F.mse_loss(module(x[rows]), y[rows]).backward()
        optimizer.step()


def test_its_trajectory_is_that_of_the_learner(trained: RunConfig) -> None:
    loop = build(trained)
    task = loop.tasks(SPLITS[2], 0, 1)
    x, y = task.support.inputs[0], task.support.targets[0]
    meta = {f"optimizer.{name}": tensor for name, tensor in distmeta.optim.load(folder_of(trained)).weights.items()}
    states = [loop.adapt(meta, x, y, steps=k, seed=3).state.fast.params[0] for k in (0, STEPS)]
    module = network(states[0])
    fit(module, distmeta.optim.load(folder_of(trained))(module.parameters()), x, y, range(STEPS))
    torch.testing.assert_close(nn.utils.parameters_to_vector(module.parameters()), states[1], rtol=1e-9, atol=1e-12)
    assert float((states[1] - states[0]).abs().max()) > 1e-3


def test_a_state_goes_on_where_it_was_saved(trained: RunConfig) -> None:
    make, rng = distmeta.optim.load(folder_of(trained)), torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 4, generator=rng).double(), torch.randn(6, 1, generator=rng).double()
    start = torch.randn(19, generator=rng).double()
    whole, part = network(start), network(start)
    fit(whole, make(whole.parameters()), x, y, range(STEPS))
    first = make(part.parameters())
    fit(part, first, x, y, range(3))
    second = make(part.parameters())
    second.load_state_dict(first.state_dict())
    fit(part, second, x, y, range(3, STEPS))
    for left, right in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(left, right)


def test_it_lowers_the_loss_of_float32_networks_in_groups(tmp_path: Path) -> None:
    config = config_of(tmp_path, evolved_optimizer(40, 20, 4, rule=RULES["mlp"]))
    train(config, quiet=True)
    torch.manual_seed(0)
    module, x = nn.Linear(5, 2), torch.randn(20, 5)
    frozen = nn.Parameter(torch.ones(3))
    groups = [{"params": [module.weight]}, {"params": [module.bias, frozen], "scale": 0.5}]
    optimizer = distmeta.optim.load(folder_of(config))(groups, steps=60)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(module(x), x[:, :2])
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(60)]
    assert losses[-1] < losses[0] / 2
    assert bool((frozen == 1).all())
    assert module.weight.dtype == torch.float32


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    other = config_of(tmp_path, maml(lr=0.01), "maml")
    train(other, quiet=True)
    with pytest.raises(UserError, match=r"learner\.kind 'gradient' is no optimizer; allowed: a checkpoint"):
        distmeta.optim.load(folder_of(other))
    config = config_of(tmp_path, evolved_optimizer(STEPS, 2, 4))
    train(config, quiet=True)
    make = distmeta.optim.load(folder_of(config))
    with pytest.raises(UserError, match="0 steps; allowed: 1 or more"):
        make([nn.Parameter(torch.ones(1))], steps=0)
    with pytest.raises(UserError, match=r"a parameter of torch\.bfloat16; allowed: float32"):
        make([nn.Parameter(torch.ones(1, dtype=torch.bfloat16))])
    param = nn.Parameter(torch.ones(3, 2))
    param.grad = torch.eye(3)[:, :2].to_sparse()
    with pytest.raises(UserError, match="a sparse gradient; allowed: dense"):
        make([param]).step()
