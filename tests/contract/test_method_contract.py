"""Properties of every method, on images, on sine waves, or on texts: one table with a row for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distmeta.config import (
    Conv4Config,
    EngineConfig,
    GlyphTasks,
    MlpConfig,
    PolicyConfig,
    RunConfig,
    SinusoidTasks,
)
from distmeta.core.tensors import all_finite, cloned, digest
from distmeta.core.types import Episode, Params, Update
from distmeta.engine.engine import Engine, one_by_one
from distmeta.engine.lanes import Lanes
from distmeta.methods import METHODS, method
from distmeta.methods.build import Algorithm, build_algorithm, dtype_of
from distmeta.program.scoring import Scorer, ShardScores
from distmeta.server.tree import sum_group
from distmeta.tasks import build_source

from ..decoders import texts_in, transformer

TASKS = 4
CONVNET = {"kind": "convnet", "filters": (3, 4)}
CELL = {"kind": "mixed", "filters": 2, "cells": 1, "operations": ("conv1x1", "max_pool", "skip")}
RESNET = {"kind": "resnet12", "widths": (2, 2, 2, 4)}
FEW_SHOT = {"way": 3, "shots": 2, "queries": 3, "eval_queries": 3, "size": 16}


@dataclass(frozen=True)
class Row:
    """A method with smaller settings than the paper's.

    Attributes:
        name: Name of the preset.
        settings: Arguments of the preset for images.
        tasks: Fields of the task section.
        regression: Arguments of the preset for sine waves; None if the method does not support regression.
        takes_texts: Whether the method takes texts alone, through a decoder.
        acts: Whether the method is one of interactive tasks alone, through a policy.
        context_size: Context parameters of the network.
        model: The network for images; None: a narrow conv4.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)
    regression: Mapping[str, Any] | None = field(default_factory=lambda: {"lr": 0.01})
    takes_texts: bool = False
    acts: bool = False
    context_size: int = 0
    model: Mapping[str, Any] | None = None


STREAM = {"stream": {"classes": 2, "shots": 2, "queries": 1, "remember": 3}}
ROWS = (
    Row("maml"),
    Row("fomaml"),
    Row("anil"),
    Row("meta_sgd"),
    Row("reptile", {"eval_steps": 14, "batch": 4}, {"train_shots": 4}, {"lr": 0.01, "eval_steps": 14, "batch": 4}),
    Row("imaml", {"steps": 4}, {}, {"lr": 0.01, "steps": 4}),
    Row("imaml_hf", {"steps": 2, "cg_steps": 3}, {}, {"lr": 0.01, "steps": 2, "cg_steps": 3}),
    Row("protonet", {}, {"train_way": 7}, None),
    Row("proto_maml", {"steps": 2, "scale": 0.1}, {"train_way": 4}, None),
    Row("label_words", {"steps": 2}, {"train_way": 4}, None, takes_texts=True),
    Row("lstm", {"width": 6, "layers": 2}, {}, {"width": 6}),
    Row("neural_process", {"width": 6, "likelihood": False}, {}, {"width": 6}),
    Row("in_context", {"width": 8, "attention_heads": 2}, {}, {"width": 8, "layers": 1}),
    Row("pretrain", {"steps": 4}, {}, {"steps": 4, "lr": 0.01, "groups": ("all",), "fresh": False}),
    Row("matching", {"context_steps": 2}, {"train_way": 4}, None),
    Row("knn", {"neighbours": 3, "scale": 0.3}, {"train_way": 4}, None),
    Row("r2d2", {}, {"train_way": 4}, {}),
    Row("nil", {"steps": 2}, {}, None),
    Row("multitask", {}, {}, None),
    Row("boil"),
    Row(
        "maml_pp",
        {"steps": 2, "first_order_until": 0, "per_step": ("norm",)},
        {},
        {"lr": 0.01, "steps": 2, "first_order_until": 0},
    ),
    Row("cavia", {"lr": 0.5, "steps": 2}, {}, {"lr": 0.5}, context_size=4),
    Row("weight_generator", {"width": 6}, {"train_way": 4}, None),
    Row("film", {"width": 6}, {"train_way": 4}, {"width": 6}),
    Row("hyperparameters", {"steps": 2}, {}, {"lr": 0.01, "steps": 2}),
    Row("learned_loss", {"steps": 2, "width": 5}, {}, {"lr": 0.01, "width": 5, "added": True}),
    Row("reweight", {"steps": 2, "width": 5}, {"label_noise": 0.5}, {"lr": 0.01, "steps": 2, "width": 5}),
    Row("darts", {"steps": 2}, {}, None, model=CELL),
    Row("oml", {"steps": 4, "eval_steps": 6}, STREAM, None, model=CONVNET),
    Row("anml", {"steps": 4, "eval_steps": 6}, STREAM, None, model=CONVNET | {"gate": (2, 2)}),
    Row("learned_optimizer", {"steps": 4, "window": 2, "batch": 4}, {}, {"steps": 4, "window": None}),
    Row("evolved_optimizer", {"steps": 4, "window": 2, "batch": 4}, {}, {"steps": 4, "window": 2, "persistent": False}),
    Row("target_only", {}, {}, {}),
    Row("joint", {"alpha": 0.3}, {}, None),
    Row("fine_tuning", {"steps": 3, "batch": 4, "unfreeze": ("block4", "block3"), "unfreeze_steps": 1}, {}, None),
    Row("linear_probe", {"steps": 3, "batch": 4}, {}, None),
    Row("lp_ft", {"steps": 2, "probe_steps": 2, "batch": None}, {}, None),
    Row("l2sp", {"steps": 2, "batch": 4, "optimizer": "sgd", "momentum": 0.9}, {}, None),
    Row("surgical", {"steps": 2, "batch": 4}, {}, None),
    Row("auto_rgn", {"steps": 4, "batch": 4}, {}, None),
    Row("merlin", {}, {}, None),
    Row("maml_rl", {"steps": 2}, {}, None, acts=True),
    Row("fomaml_rl", {"gae": 0.9}, {}, None, acts=True),
    Row("anil_rl", {"dependence": 0.5}, {}, None, acts=True),
    Row("rl2", {}, {"episodes": 2}, None, acts=True, model={"kind": "policy", "hidden": (5,), "memory": 4}),
    Row("bn_adapt", {"share": 0.6}, {}, None, model=RESNET),
    Row("tent", {"steps": 2}, {}, None),
    Row("ttt", {"steps": 2}, {}, None, model=RESNET),
    Row("deep_coral", {"weight": 5.0}, {}, None, model=RESNET),
    Row("dann", {}, {}, None, model=RESNET),
)


def glyphs(row: Row) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "contract",
            "tasks": GlyphTasks.model_validate(FEW_SHOT | row.tasks),
            "model": row.model or Conv4Config(filters=4, context_size=row.context_size),
            "algorithm": method(row.name, **row.settings),
            "engine": EngineConfig(dtype="float64"),
        }
    )


def intents(row: Row, folder: Path) -> RunConfig:
    tasks = {**texts_in(folder), "queries": 1, "eval_queries": 1, **row.tasks}
    return RunConfig.model_validate(
        {
            "name": "contract",
            "tasks": tasks,
            "model": transformer(),
            "algorithm": method(row.name, **row.settings),
            "engine": EngineConfig(dtype="float64"),
        }
    )


def sine_waves(row: Row) -> RunConfig:
    assert row.regression is not None
    return RunConfig(
        name="contract",
        tasks=SinusoidTasks(shots=5, queries=5, eval_queries=5),
        model=MlpConfig(hidden=(8, 8), context_size=row.context_size),
        algorithm=method(row.name, **row.regression),
        engine=EngineConfig(dtype="float64"),
    )


def navigation(row: Row) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "contract",
            "tasks": {"source": "navigation", "shots": 3, "queries": 2, "eval_queries": 2, "horizon": 8, **row.tasks},
            "model": row.model or PolicyConfig(hidden=(6, 5)),
            "algorithm": method(row.name, **row.settings),
            "engine": EngineConfig(dtype="float64"),
        }
    )


CONFIGS = {f"{row.name}, glyphs": glyphs(row) for row in ROWS if not row.takes_texts and not row.acts}
CONFIGS |= {f"{row.name}, navigation": navigation(row) for row in ROWS if row.acts}
CONFIGS |= {f"{row.name}, sine waves": sine_waves(row) for row in ROWS if row.regression is not None}
TEXTS = {f"{row.name}, texts": row for row in ROWS if row.takes_texts}


@dataclass(frozen=True)
class Case:
    """A method over its tasks, ready to run."""

    config: RunConfig
    algorithm: Algorithm
    meta: Params
    train: Episode
    test: Episode

    def update(self, episodes: Episode | None = None, meta: Params | None = None) -> Update:
        return self.engine(self.config.engine).update(meta or self.meta, episodes or self.train)[0]

    def engine(self, config: EngineConfig) -> Engine:
        return Engine(self.algorithm.learner, self.algorithm.estimator, self.algorithm.terms, config)

    def score(self, strategy: str, meta: Params | None = None) -> ShardScores:
        engine = EngineConfig.model_validate({"strategy": strategy})
        scorer = Scorer(self.algorithm.evaluators, self.algorithm.scored, engine, Lanes(1))
        return scorer.score(meta or self.meta, self.test)

    def scores(self) -> dict[str, dict[str, np.ndarray]]:
        return self.score("vmap").scores

    @cached_property
    def first_update(self) -> Update:
        """The update that several tests look at and none changes."""
        return self.update()

    @cached_property
    def first_scores(self) -> dict[str, dict[str, np.ndarray]]:
        return self.scores()


def marks(name: str) -> list[pytest.MarkDecorator]:
    """One process has all tests of a row. Of the rows on sine waves, a few kinds of learners are enough by default."""
    row, _, kind = name.partition(", ")
    first = kind != "sine waves" or row in ("maml", "reptile", "r2d2", "neural_process", "learned_loss")
    return [pytest.mark.xdist_group(name), *(() if first else (pytest.mark.slow,))]


@pytest.fixture(params=[pytest.param(name, marks=marks(name)) for name in (*CONFIGS, *TEXTS)], scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param not in TEXTS:
        return build(CONFIGS[request.param])
    pytest.importorskip("transformers", reason="decoders are those of transformers")
    return build(intents(TEXTS[request.param], tmp_path_factory.mktemp("texts")))


def build(config: RunConfig) -> Case:
    source = build_source(config.tasks, config.seed, dtype_of(config))
    algorithm = build_algorithm(config, source.signature)
    episodes = {
        split: source.episodes(source.specs(split, 0, TASKS), algorithm.roles(split)) for split in ("train", "test")
    }
    meta = {**algorithm.learner.init(config.seed), **algorithm.learner.backbone.buffers()}
    return Case(config, algorithm, meta, episodes["train"], episodes["test"])


def part(episodes: Episode, begin: int, end: int) -> Episode:
    return episodes.select(range(begin, end))


def assert_close(actual: Update, expected: Update) -> None:
    size = max(1.0, sum(float(grad.square().sum()) for grad in expected.grad.values()) ** 0.5)
    assert actual.weight == expected.weight
    assert actual.metrics == pytest.approx(expected.metrics, rel=1e-12)
    assert set(actual.grad) == set(expected.grad)
    for name, grad in expected.grad.items():
        assert float((actual.grad[name] - grad).norm()) < 1e-12 * size, name


def test_every_method_has_a_row() -> None:
    assert [row.name for row in ROWS] == list(METHODS)


def test_the_update_has_the_names_and_shapes_of_the_parameters(case: Case) -> None:
    update = case.first_update
    assert list(update.grad) == [name for name in case.meta if name in update.grad]
    # No term depends on a bias before batch norm, nor on what starts anew for each task or is not trained.
    learner = case.algorithm.learner
    others = {*learner.fresh, *learner.fixed, *learner.backbone.buffers()}
    assert all(name.endswith("conv.bias") or name in others for name in set(case.meta) - set(update.grad))
    assert not learner.fixed & set(update.grad)
    for name, grad in update.grad.items():
        assert (grad.shape, grad.dtype) == (case.meta[name].shape, case.meta[name].dtype)
        assert not grad.requires_grad
    assert update.weight == TASKS
    assert "loss" in update.metrics


def test_everything_is_finite_and_the_update_is_not_zero(case: Case) -> None:
    update = case.first_update
    assert all_finite(case.meta)
    assert all_finite(update.grad)
    assert any(bool(grad.any()) for grad in update.grad.values())
    assert all(np.isfinite(value) for value in update.metrics.values())
    assert all(np.isfinite(values).all() for metrics in case.first_scores.values() for values in metrics.values())


def test_two_calls_give_the_same_bits(case: Case) -> None:
    first, second = case.first_update, build(case.config).update()
    assert digest(first.grad) == digest(second.grad)
    assert first.metrics == second.metrics
    again = case.scores()
    for protocol, metrics in case.first_scores.items():
        assert all(np.array_equal(values, again[protocol][metric]) for metric, values in metrics.items())


@pytest.mark.parametrize(
    ("strategy", "requires_grad"), [("vmap", True), pytest.param("loop", False, marks=pytest.mark.slow)]
)
def test_arguments_are_not_changed(case: Case, strategy: str, requires_grad: bool) -> None:
    meta = {name: tensor.requires_grad_(requires_grad) for name, tensor in cloned(case.meta).items()}
    tensors = [*meta.values(), *case.train.tensors(), *case.test.tensors()]
    before = [(tensor, tensor.detach().clone(), tensor.requires_grad, tensor._version) for tensor in tensors]
    case.engine(EngineConfig(strategy=strategy)).update(meta, case.train)
    case.score(strategy, meta)
    assert list(meta) == list(case.meta)
    for tensor, values, required, version in before:
        assert torch.equal(tensor, values)
        assert (tensor.requires_grad, tensor._version) == (required, version)
        assert tensor.is_leaf
        assert tensor.grad is None


def test_updates_of_shards_add_up_to_the_update_of_all_tasks(case: Case) -> None:
    whole = case.first_update
    first, second, third = (case.update(part(case.train, *ends)) for ends in ((0, 1), (1, 3), (3, TASKS)))
    assert_close(sum_group((first, second, third)), whole)
    assert_close(sum_group((first, sum_group((second, third)))), whole)


def test_initial_parameters_are_a_function_of_the_seed(case: Case) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(5)
    first = case.algorithm.learner.init(3)
    torch.manual_seed(6)
    expected = torch.get_rng_state()
    assert digest(case.algorithm.learner.init(3)) == digest(first)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.set_rng_state(state)
    assert digest(case.algorithm.learner.init(4)) != digest(first)
    assert {tensor.dtype for tensor in first.values()} == {dtype_of(case.config)}
    assert not any(tensor.requires_grad for tensor in first.values())


def test_the_adaptation_curve_has_all_points_from_zero_to_the_last_step(case: Case) -> None:
    scores = case.score("loop")
    assert set(scores.scores) == set(scores.points) == set(case.algorithm.evaluators)
    for protocol, learner in case.algorithm.evaluators.items():
        points = scores.points[protocol]
        assert points[0] == 0
        num_steps = len(learner.stages({role: case.test[role].inputs.shape[1] for role in learner.roles}))
        assert points[-1] == num_steps
        assert list(points) == sorted(set(points))
        assert num_steps > 10 or points == tuple(range(num_steps + 1))
        for values in scores.scores[protocol].values():
            assert values.shape == (TASKS, len(points))
    vmapped = case.first_scores
    for protocol, metrics in scores.scores.items():
        for metric, values in metrics.items():
            np.testing.assert_allclose(vmapped[protocol][metric], values, rtol=1e-11, atol=1e-13)


def test_an_adapted_learner_has_one_output_for_each_class(case: Case) -> None:
    source = build_source(case.config.tasks, 0, dtype_of(case.config))
    task = part(case.test, 0, 1)
    for learner in case.algorithm.evaluators.values():
        ops, inputs = one_by_one(learner), task.query.inputs
        if memory := learner.backbone.memory:  # a step of a trial
            inputs = inputs.new_zeros(*inputs.shape[:2], source.input_shape[0] + memory)
        state = ops.adapt(case.meta, task)
        outputs = ops.predict(case.meta, state, task, inputs, head=case.algorithm.eval_head)
        assert outputs.shape == (1, inputs.shape[1], source.num_outputs)
