"""A network of one's own: a small residual `torch.nn.Module` with batch norm and dropout, meta-trained by MAML.

    distmeta train jobs/examples/resnet_module.py

Batch norm keeps running statistics, which the server averages over the tasks; dropout draws from the seeds of the
tasks, so that any number of workers gives the same bits.
"""

import functools

import torch
from torch import nn

from distmeta import methods
from distmeta.cli import run_job
from distmeta.config import EvaluationConfig, GlyphTasks, OuterConfig, RunConfig, RuntimeConfig, TrainConfig


class Block(nn.Module):
    """Two convolutions beside a shortcut, then 2x2 pooling."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.shortcut, self.dropout = nn.Conv2d(channels, width, 1), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return self.dropout(nn.functional.max_pool2d(torch.relu(y + self.shortcut(x)), 2))


def make_net(input_shape: tuple[int, ...], num_outputs: int, width: int = 16, dropout: float = 0.1) -> nn.Module:
    """What the configuration names: a function of the tasks' sizes and of options."""
    body = (Block(input_shape[0], width, dropout), Block(width, width, dropout))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_outputs))


def config() -> RunConfig:
    return RunConfig(
        name="resnet_module",
        tasks=GlyphTasks(way=5, shots=1, queries=3, eval_queries=5, size=16),
        model=functools.partial(make_net, width=12),
        algorithm=methods.maml(lr=0.1, steps=1, eval_steps=3),
        outer=OuterConfig(optimizer="Adam", lr=2e-3),
        train=TrainConfig(steps=300, tasks_per_step=8),
        runtime=RuntimeConfig(workers=2, shard_size=4),
        evaluation=EvaluationConfig(every=100, tasks=50, final_tasks=200),
    )


if __name__ == "__main__":
    run_job(__file__)
