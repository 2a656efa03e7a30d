"""Interactive tasks in the engine: who acts, when they are asked, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from distmeta.config import (
    AlgorithmConfig,
    EngineConfig,
    MlpConfig,
    NavigationTasks,
    PolicyConfig,
    RunConfig,
    SinusoidTasks,
)
from distmeta.core.errors import UserError
from distmeta.core.types import Act, Batch, Episode
from distmeta.engine.engine import Engine
from distmeta.engine.lanes import Lanes
from distmeta.methods import (
    anil_rl,
    cavia,
    imaml,
    imaml_hf,
    learned_optimizer,
    lstm,
    maml,
    maml_rl,
    meta_sgd,
    reptile,
)
from distmeta.methods.build import Algorithm, build_algorithm, dtype_of
from distmeta.program.program import MetaProgram
from distmeta.program.scoring import Scorer, headline, summarise
from distmeta.tasks import build_source

TASKS = NavigationTasks(shots=3, queries=2, eval_queries=2, horizon=6)


def changed(algorithm: AlgorithmConfig, **fields: Any) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate({**algorithm.model_dump(), **fields})


def config(**fields: Any) -> RunConfig:
    sections = {"tasks": TASKS, "model": PolicyConfig(hidden=(5,)), "algorithm": maml_rl(steps=2)}
    engine = EngineConfig.model_validate({"dtype": "float64", **fields.pop("engine", {})})
    return RunConfig.model_validate({"name": "rl", **sections, "engine": engine, **fields})


def made(run: RunConfig, split: str = "train") -> tuple[Algorithm, dict[str, Tensor], Episode]:
    source = build_source(run.tasks, run.seed, dtype_of(run))
    algorithm = build_algorithm(run, source.signature)
    return algorithm, algorithm.learner.init(0), source.episodes(source.specs(split, 0, 4), algorithm.roles(split))


class Watch:
    """A supply that remembers whom it asked: (role, inner step, outputs of the policies at the origin)."""

    def __init__(self, tasks: Episode) -> None:
        self._supply, self.asked = tasks.supply, list[tuple[str, int, Tensor]]()

    def __call__(self, tasks: Episode, role: str, k: int, act: Act) -> Batch:
        assert self._supply is not None
        self.asked.append((role, k, act(tasks[role].inputs)))
        assert not self.asked[-1][2].requires_grad
        return self._supply(tasks, role, k, act)


def engine_of(algorithm: Algorithm, **fields: Any) -> Engine:
    return Engine(algorithm.learner, algorithm.estimator, algorithm.terms, EngineConfig.model_validate(fields))


def test_tasks_are_asked_between_inner_steps_with_the_policy_at_hand() -> None:
    algorithm, meta, tasks = made(config())
    watch = Watch(tasks)
    engine_of(algorithm, strategy="vmap").update(meta, replace(tasks, supply=watch))
    assert [(role, k) for role, k, _ in watch.asked] == [("support", 0), ("support", 1), ("query", 0)]
    first, second, last = (outputs[:, 0] for _, _, outputs in watch.asked)
    assert torch.equal(first, first[:1].expand_as(first))
    assert (second != first).any(1).all()
    assert (last != second).any(1).all()


@pytest.mark.parametrize("order", [1, 2])
def test_lifts_and_memory_give_the_same_update(order: int) -> None:
    estimator = {"kind": "backprop", "order": order}
    algorithm, meta, tasks = made(config(algorithm=changed(maml_rl(steps=3), estimator=estimator)))
    runs = [
        engine_of(algorithm, strategy=strategy, memory=memory).update(meta, tasks)[0]
        for strategy in ("loop", "vmap")
        for memory in ("unrolled", "flat")
    ]
    for other in runs[1:]:
        for name, grad in runs[0].grad.items():
            torch.testing.assert_close(other.grad[name], grad, rtol=1e-9, atol=1e-12)
    for unrolled, flat in (runs[:2], runs[2:]):
        assert all(torch.equal(grad, flat.grad[name]) for name, grad in unrolled.grad.items())


@pytest.mark.parametrize(
    ("algorithm", "context_size"),
    [
        (meta_sgd(), 0),
        (cavia(steps=2), 3),
        (reptile(steps=2, batch=2, eval_steps=2), 0),
        (imaml(steps=3), 0),
        (imaml_hf(steps=1, cg_steps=2), 0),
        (learned_optimizer(steps=4, window=2), 0),
    ],
    ids=lambda value: getattr(value, "method", ""),
)
def test_methods_of_gradient_steps_take_trajectories_as_they_take_examples(
    algorithm: AlgorithmConfig, context_size: int
) -> None:
    method, meta, tasks = made(config(algorithm=algorithm, model=PolicyConfig(hidden=(5,), context_size=context_size)))
    loop, vmap = (engine_of(method, strategy=strategy).update(meta, tasks)[0] for strategy in ("loop", "vmap"))
    assert any(bool(grad.any()) for grad in loop.grad.values())
    for name, grad in loop.grad.items():
        torch.testing.assert_close(vmap.grad[name], grad, rtol=1e-8, atol=1e-11)


def test_a_head_that_moves_alone_sees_the_observations_of_each_step() -> None:
    algorithm, meta, tasks = made(config(algorithm=anil_rl(steps=2)))
    assert not algorithm.learner.reads_features_only
    update = engine_of(algorithm, strategy="vmap").update(meta, tasks)[0]
    assert set(update.grad) == set(meta)  # the body's and the deviations' gradient as well


def test_terms_on_the_meta_parameters_ask_without_adaptation() -> None:
    algorithm, meta, tasks = made(config(algorithm=changed(maml_rl(), terms=[{"at": "meta"}])))
    watch = Watch(tasks)
    engine_of(algorithm, strategy="vmap").update(meta, replace(tasks, supply=watch))
    assert [(role, k) for role, k, _ in watch.asked] == [("query", 0)]
    outputs = watch.asked[0][2]
    assert torch.equal(outputs, outputs[:1, :1].expand_as(outputs))


def test_scores_before_and_after_steps_share_their_draws_and_are_led_by_the_return() -> None:
    algorithm, meta, tasks = made(config(), "test")
    scorer = Scorer(algorithm.evaluators, algorithm.scored, EngineConfig(strategy="vmap"), Lanes(1))
    watch = Watch(tasks)
    scores = scorer.score(meta, replace(tasks, supply=watch))
    assert [(role, k) for role, k, _ in watch.asked] == [
        ("query", 0),
        *(each for k in range(3) for each in (("support", k), ("query", 0))),
    ]
    score = headline(summarise([scores]))
    assert (score.metric, score.points) == ("return", (0, 1, 2, 3))
    again = scorer.score(meta, tasks)
    assert (again.scores["inductive"]["return"] == scores.scores["inductive"]["return"]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": {"strategy": "compiled"}}, r"engine.strategy: 'compiled' compiles .*interactive tasks are asked"),
        ({"algorithm": lstm()}, r"algorithm.learner.kind: learner kind 'lstm' adapts to examples"),
        (
            {"algorithm": changed(maml_rl(), terms=[{"at": "meta"}, {"at": "last"}])},
            r"algorithm.terms: two terms score role 'query' by different policies",
        ),
        ({"tasks": SinusoidTasks(), "algorithm": maml()}, r"model.kind: a policy has a mean and a deviation"),
        ({"model": {"kind": "policy", "hidden": [10**9]}}, r"hidden makes"),
        ({"tasks": TASKS.model_copy(update={"episodes": 2})}, r"model: a trial .* read in order, but .* no memory"),
        ({"model": PolicyConfig(memory=3)}, r"tasks.episodes: the policy has a memory of 3 units, but trajectories"),
        (
            {"model": PolicyConfig(hidden=(100_000,), memory=4096), "tasks": TASKS.model_copy(update={"episodes": 2})},
            r"model.memory: a memory of 4096 units on 100000 features has [0-9]+ parameters",
        ),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        MetaProgram(config(**fields))


def test_a_policy_without_interactive_tasks_is_refused() -> None:
    tasks = {"source": "glyphs", "way": 4, "size": 16}
    with pytest.raises(UserError, match=r"model.kind: the network is a policy, but the tasks are not interactive"):
        MetaProgram(config(tasks=tasks, algorithm=maml()))


def test_other_objectives_are_refused() -> None:
    algorithm, meta, tasks = made(config(algorithm=changed(maml_rl(), terms=[{"objective": "mse"}])))
    with pytest.raises(UserError, match=r"objective 'mse': the examples have no targets"):
        engine_of(algorithm).update(meta, tasks)


def test_a_network_whose_deviations_depend_on_observations_is_a_policy_as_well() -> None:
    algorithm, meta, tasks = made(config(model=MlpConfig(hidden=(4,))))
    assert engine_of(algorithm, strategy="vmap").update(meta, tasks)[0].weight == 4
