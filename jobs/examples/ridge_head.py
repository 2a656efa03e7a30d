"""A learner and an objective of one's own: ridge regression in closed form as the head (R2-D2, Bertinetto et al. 2019).

distmeta train jobs/examples/ridge_head.py

W = X' (X X' + lambda I)^-1 Y        X [N, D] support features, Y [N, C] one-hot labels
logits(x) = scale * x W + bias       lambda, scale and bias are meta-learned (arXiv 1805.08136, section 3)
"""

import torch
import torch.nn.functional as F

from distmeta import config as c
from distmeta.cli import run_job
from distmeta.methods.learners import Learner


class RidgeHead(Learner):
    """Two functions: `start` fits the head, `predict` applies it. Both are differentiated through."""

    def init(self, seed):
        params, body = self.backbone.init(seed), self.backbone.groups()["body"]
        start = {"ridge.log_lambda": 0.0, "ridge.scale": 1.0, "ridge.bias": 0.0}
        return {name: params[name] for name in body} | {name: torch.tensor(value) for name, value in start.items()}

    def start(self, net, meta, task):
        x = net.features(meta, task.support.inputs)
        y = F.one_hot(task.support.targets, self.backbone.num_outputs).to(x.dtype)
        gram = x @ x.T + meta["ridge.log_lambda"].exp() * torch.eye(len(x), dtype=x.dtype, device=x.device)
        return {"weight": x.T @ torch.linalg.solve(gram, y)}

    def predict(self, net, meta, fast, task, inputs, *, head="head"):
        features = net.features(meta, inputs, task.support.inputs)
        return meta["ridge.scale"] * features @ fast["weight"] + meta["ridge.bias"]


def smoothed(forward, batch):
    """Cross-entropy with smoothed labels; reports the accuracy."""
    logits = forward(batch.inputs)
    accuracy = (logits.argmax(-1) == batch.targets).to(logits.dtype).mean()
    return F.cross_entropy(logits, batch.targets, label_smoothing=0.05), {"accuracy": accuracy}


def config() -> c.RunConfig:
    return c.RunConfig(
        name="ridge_head",
        tasks=c.GlyphTasks(way=5, shots=1, queries=3, eval_queries=5, size=16),
        model=c.Conv4Config(filters=16),
        algorithm=c.AlgorithmConfig(method="ridge", learner=RidgeHead, terms=(c.Term(objective=smoothed),)),
        outer=c.OuterConfig(optimizer="Adam", lr=2e-3),
        train=c.TrainConfig(steps=200, tasks_per_step=8),
        runtime=c.RuntimeConfig(workers=2, shard_size=4),
        evaluation=c.EvaluationConfig(every=100, tasks=50, final_tasks=200),
    )


if __name__ == "__main__":
    run_job(__file__)
