"""Training of bodies that are tested without a head (NIL), compared with loops written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distmeta.config import AlgorithmConfig, MlpConfig, RunConfig, StoreTasks
from distmeta.core.types import QUERY, SOURCE, SUPPORT, Episode
from distmeta.engine.lanes import Lanes
from distmeta.methods import anil, maml, matching, multitask, nil, nil_head, pretrain, reptile
from distmeta.methods.build import Algorithm, build_algorithm
from distmeta.models.base import Frame
from distmeta.program.scoring import Scorer
from distmeta.tasks.base import TaskSignature

from . import networks
from .problems import WAY, classification, mean_gradient, mean_over_tasks, perturbed, single_tasks, worst_relative_error

CLASSES = 11
SIGNATURE = TaskSignature((6,), WAY, {SUPPORT: WAY, QUERY: WAY, SOURCE: CLASSES}, "cross_entropy")


def built(algorithm: AlgorithmConfig) -> Algorithm:
    settings = {"name": "x", "engine": {"dtype": "float64"}}
    config = RunConfig.model_validate(
        {**settings, "tasks": StoreTasks(way=WAY), "model": MlpConfig(hidden=(8, 7)), "algorithm": algorithm}
    )
    return build_algorithm(config, SIGNATURE)


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (nil(), "nil"),
        (nil_head(maml()), "maml_nil"),
        (nil_head(reptile()), "reptile_nil"),
        (nil_head(pretrain(), "multiclass"), "multiclass"),
        (multitask(), "multitask"),
        (multitask("task"), "multitask"),
        (matching(), "matching"),
    ],
)
def test_any_body_is_tested_by_the_cosines_of_its_features(algorithm: AlgorithmConfig, name: str) -> None:
    assert algorithm.method == name
    method, episodes = built(algorithm), classification(6, shots=3, tasks=4)
    meta = perturbed(method.learner.init(0))
    scored = Scorer(method.evaluators, method.scored, RunConfig(name="x").engine, Lanes(1)).score(meta, episodes)
    assert scored.points == {"inductive": (0,)}
    body = next(iter(method.evaluators.values())).backbone
    for number, task in enumerate(single_tasks(episodes)):
        support, query = (body.features(meta, task[role].inputs, Frame()).numpy() for role in (SUPPORT, QUERY))
        lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(support, axis=1)
        weights = np.exp(query @ support.T / lengths)
        shares = weights @ np.eye(WAY)[task.support["targets"].numpy()] / weights.sum(1, keepdims=True)
        targets = task.query["targets"].numpy()
        found = {metric: values[number, 0] for metric, values in scored.scores["inductive"].items()}
        assert found["accuracy"] == pytest.approx(np.mean(shares.argmax(1) == targets))
        assert found["loss"] == pytest.approx(-np.log(shares[np.arange(len(targets)), targets]).mean())


def test_the_training_of_nil_is_that_of_anil() -> None:
    assert (nil().learner, nil().estimator, nil().terms) == (anil().learner, anil().estimator, anil().terms)


@pytest.mark.parametrize("steps", [1, 4])
def test_heads_of_tasks_are_fitted_to_what_the_body_is_trained_on(steps: int) -> None:
    method, episodes = built(multitask("task", lr=0.3, steps=steps)), classification(6)
    assert method.train_roles == (QUERY,)
    meta, expected = perturbed(method.learner.init(0)), []
    for task in single_tasks(episodes):
        net = networks.with_values(networks.Mlp((6, 8, 7, WAY)), meta)
        for parameter in net.head.parameters():
            torch.nn.init.zeros_(parameter)
        optimizer = torch.optim.SGD(net.head.parameters(), lr=0.3)
        for _ in range(steps):
            net.zero_grad()
            F.cross_entropy(net(task.query.inputs), task.query.targets).backward()
            optimizer.step()
        loss = F.cross_entropy(net(task.query.inputs), task.query.targets)
        grads = networks.plain_gradient(net, loss)
        expected.append({name: grad for name, grad in grads.items() if not name.startswith("head")})
    queries = Episode({QUERY: episodes.query})
    signal = mean_gradient(method.learner, method.estimator, meta, queries, terms=method.terms)
    assert not any(name.startswith("head") for name in signal)
    assert worst_relative_error(signal, mean_over_tasks(expected)) < 1e-11


def test_one_head_of_all_tasks_is_plain_joint_training() -> None:
    method, episodes = built(multitask()), classification(6)
    assert method.train_roles == (QUERY,)
    meta, expected = perturbed(method.learner.init(0)), []
    for task in single_tasks(episodes):
        net = networks.with_values(networks.Mlp((6, 8, 7, WAY)), meta)
        expected.append(networks.plain_gradient(net, F.cross_entropy(net(task.query.inputs), task.query.targets)))
    queries = Episode({QUERY: episodes.query})
    signal = mean_gradient(method.learner, method.estimator, meta, queries, terms=method.terms)
    assert worst_relative_error(signal, mean_over_tasks(expected)) < 1e-11
