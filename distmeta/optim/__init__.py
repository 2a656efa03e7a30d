"""Use a learned optimizer in any training loop of torch.

optimizer = distmeta.optim.load("runs/learned_optimizers_mlp")(model.parameters())
"""

from distmeta.optim.load import load
from distmeta.optim.optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer", "load"]
