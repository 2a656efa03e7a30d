"""Steps within a trust region: products with the Fisher matrix, and what the steps keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.config import EngineConfig, NavigationTasks, OuterConfig, PolicyConfig, RunConfig, TrainConfig
from distmeta.config.outer import TrustRegionConfig
from distmeta.core.policies import kl_divergence
from distmeta.core.tensors import digest
from distmeta.core.types import Episode, Params, Snapshot, Work
from distmeta.engine.engine import Engine
from distmeta.engine.ops import AutogradOps, EagerOps
from distmeta.engine.trust_region import curvature, trial
from distmeta.methods import anil_rl, maml_rl
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.terms import OuterTerm
from distmeta.program.program import MetaProgram
from distmeta.program.recorded import CURVATURE, RECORD, STEP, TRIAL, VECTOR
from distmeta.runtime.local import LocalExecutor
from distmeta.tasks.recording import Recording
from distmeta.training.steps import build_procedure

from ..tabular import episodes
from .problems import EXACT
from .test_policy_gradient import flat, learner_of, settings, start, term, unflat

INNER = settings(dependence=0.7)


def tabular() -> tuple[GradientLearner, tuple[OuterTerm, ...], Episode]:
    """A learner of two inner steps, and three tasks whose trajectories are recorded."""
    learner, terms, tasks = learner_of(INNER, steps=2), term(INNER), episodes(3, 4, 5)
    assert tasks.supply is not None
    tasks = replace(tasks, supply=Recording(tasks.supply))
    Engine(learner, EXACT, terms, EngineConfig(strategy="vmap")).update(start(), tasks)
    return learner, terms, tasks


def adapted_outputs(learner: GradientLearner, terms: tuple[OuterTerm, ...], tasks: Episode, params: Params) -> Tensor:
    """Logits [T, N, H, A] of the adapted policies on the query trajectories."""
    ops = EagerOps(learner, "vmap", terms)
    state = ops.adapt(params, tasks)
    inputs = ops.asked(params, state, tasks)["query"].inputs
    return ops.act(params, state, tasks, inputs.flatten(1, 2)).reshape(*inputs.shape[:3], -1)


@pytest.mark.parametrize("lift", ["loop", "vmap"])
def test_the_product_is_that_with_the_fisher_matrix_of_the_adapted_policies(lift: str) -> None:
    learner, terms, tasks = tabular()
    if lift == "loop":
        tasks = replace(tasks, supply=Recording(tasks.supply))  # of one task each
    vector = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ops, actual = AutogradOps(learner, lift, terms, "unrolled"), torch.zeros(6, dtype=torch.float64)
    for chunk in [tasks] if lift == "vmap" else [tasks.select([task]) for task in range(3)]:
        if lift == "loop":
            Engine(learner, EXACT, terms, EngineConfig(strategy="loop")).update(start(), chunk)
        actual += flat(curvature(ops, terms, start(), chunk, unflat(vector, start())))
    old = adapted_outputs(learner, terms, tasks, start())
    columns = []
    for direction in torch.eye(6, dtype=torch.float64):
        above, below = (
            adapted_outputs(learner, terms, tasks, unflat(flat(start()) + sign * 1e-5 * direction, start()))
            for sign in (1, -1)
        )
        columns.append((above - below) / 2e-5)
    jacobian = torch.stack(columns, -1)
    p = old.softmax(-1)
    metric = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    fisher = torch.einsum("tnhap,tnhab,tnhbq->pq", jacobian, metric, jacobian) / (old.shape[1] * old.shape[2])
    torch.testing.assert_close(actual, fisher @ vector, rtol=1e-6, atol=1e-9)
    assert actual.abs().max() > 1e-3


def test_a_trial_is_the_loss_and_the_divergence_on_the_same_trajectories() -> None:
    learner, terms, tasks = tabular()
    moved = {name: tensor + 0.05 for name, tensor in start().items()}
    moved["head.weight"] = moved["head.weight"] * 1.1
    ops = EagerOps(learner, "vmap", terms)
    scores = trial(ops, terms, start(), moved, tasks)
    old, new = (adapted_outputs(learner, terms, tasks, params) for params in (start(), moved))
    torch.testing.assert_close(scores["kl"], kl_divergence(old, new, discrete=True).mean((1, 2)))
    batch = ops.asked(moved, ops.adapt(moved, tasks), tasks)["query"]
    actions = batch["actions"].unsqueeze(-1)
    before, after = (each.log_softmax(-1).gather(-1, actions).squeeze(-1) for each in (old, new))
    later = batch["rewards"].flip(2).cumsum(2).flip(2)
    # INNER scores the queries as well: ratios of products of probabilities, discounted by the dependence.
    w = after - before
    v = torch.stack([sum(0.7 ** (t - u) * w[..., u] for u in range(t + 1)) for t in range(w.shape[2])], 2)
    expected = -(batch["rewards"] + (v.exp() - (v - w).exp()) * later).mean((1, 2))
    torch.testing.assert_close(scores["loss"], expected)
    still = trial(ops, terms, start(), start(), tasks)
    assert still["kl"].abs().max() < 1e-14


def run(**fields: Any) -> RunConfig:
    sections = {
        "tasks": NavigationTasks(shots=5, queries=5, horizon=10),
        "model": PolicyConfig(hidden=(8,), init_std=0.5),
        "algorithm": maml_rl(),
        "outer": OuterConfig(optimizer="SGD", lr=1.0, trust_region=TrustRegionConfig(cg_steps=5)),
        "train": TrainConfig(steps=4, tasks_per_step=6),
        "runtime": {"executor": "local", "shard_size": 4},
        "engine": EngineConfig(strategy="vmap"),
    }
    return RunConfig.model_validate({"name": "region", **sections, **fields})


@pytest.mark.parametrize(
    "algorithm",
    [maml_rl(), *(pytest.param(other, marks=pytest.mark.slow) for other in (maml_rl(dependence=0.0), anil_rl()))],
)
def test_steps_keep_the_bound_and_improve_the_loss(algorithm: Any) -> None:
    config = run(algorithm=algorithm)
    program = MetaProgram(config)
    executor = LocalExecutor(config.runtime, program)
    try:
        procedure = build_procedure(config, program.algorithm.learner.init(0), program.source, executor)
        for _ in range(4):
            before = procedure.server.pull()
            record = procedure.step(Work("update", config.engine)).record
            assert 0 < record.metrics["kl"] <= 0.01
            assert record.metrics["improvement"] > 0
            assert record.weight == 6
            # The region is used: the longest step is at the bound to second order.
            assert record.metrics["kl"] > 0.01 * 0.8**2 / 4 or record.outer["backtracks"] > 0
            assert digest(procedure.server.pull().params) != digest(before.params)
    finally:
        executor.close()


def test_a_worker_that_did_not_record_gives_the_same_bits() -> None:
    config = run()
    one, other = MetaProgram(config), MetaProgram(config)
    params = one.algorithm.learner.init(0)
    shard = one.source.shards("train", 0, 6, 4)[1]
    vector = {VECTOR + name: 0.1 * torch.ones_like(tensor) for name, tensor in params.items()}
    step = {STEP + name: 0.01 * torch.ones_like(tensor) for name, tensor in params.items()}
    one.run(Work(RECORD, config.engine), Snapshot(0, params), shard)
    for name, extra in ((CURVATURE, vector), (TRIAL, step), (CURVATURE, vector)):
        reports = [
            program.run(Work(name, config.engine), Snapshot(0, params, extra=extra), shard) for program in (one, other)
        ]
        assert digest(reports[0].update.grad) == digest(reports[1].update.grad)
        assert reports[0].update.metrics == reports[1].update.metrics
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "Adam"}, "outer.trust_region does not go with outer.optimizer 'Adam'; allowed: SGD"),
        ({"lr": 0.5}, "outer.trust_region does not go with outer.lr 0.5; allowed: 1"),
        ({"staleness": 1}, "outer.trust_region does not go with outer.staleness 1; allowed: null"),
        ({"compression": "bf16"}, "outer.trust_region does not go with outer.compression 'bf16'; allowed: none"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    base = {"optimizer": "SGD", "lr": 1.0, "trust_region": {}}
    with pytest.raises(ValueError, match=message):
        OuterConfig.model_validate({**base, **fields})
