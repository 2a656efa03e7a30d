"""Adapting and predicting with trained meta-parameters; no checkpoint is needed but for `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import distmeta
from distmeta import checkpoint as checkpoints
from distmeta.adapt.load import AdaptableLearner
from distmeta.config import CheckpointConfig, Conv4Config, EngineConfig, GlyphTasks, MlpConfig, RunConfig, SinusoidTasks
from distmeta.core.errors import UserError
from distmeta.core.tensors import cloned, digest
from distmeta.core.types import Batch, Params
from distmeta.methods import knn, maml, matching, nil, pretrain, protonet, r2d2
from distmeta.methods.build import build_algorithm, build_evaluators
from distmeta.server import ParameterServer
from distmeta.tasks.base import TaskSignature

from ...adapting import adapt, predict

SIDE, WAY = 16, 3
IMAGES = TaskSignature((1, SIDE, SIDE), WAY, {"support": WAY, "query": WAY, "source": 11}, "cross_entropy")
WAVES = TaskSignature((1,), 1, {"support": 1, "query": 1}, "mse")
DOUBLE = EngineConfig(dtype="float64")
METHODS = {
    "maml": maml(steps=2, eval_steps=None),
    "protonet": protonet(),
    "pretrain": pretrain(steps=2),
    "matching": matching(context_steps=2),
    "knn": knn(),
    "r2d2": r2d2(),
    "nil": nil(),
}


def image_config(method: str = "protonet", **sections: Any) -> RunConfig:
    defaults: dict[str, Any] = {
        "tasks": GlyphTasks(way=WAY, size=SIDE),
        "model": Conv4Config(filters=4),
        "algorithm": METHODS[method],
        "engine": DOUBLE,
    }
    return RunConfig(name="images", **{**defaults, **sections})


def wave_config(**sections: Any) -> RunConfig:
    defaults: dict[str, Any] = {
        "tasks": SinusoidTasks(),
        "model": MlpConfig(hidden=(8,)),
        "algorithm": maml(lr=0.01, steps=2, eval_steps=None),
        "engine": DOUBLE,
    }
    return RunConfig(name="waves", **{**defaults, **sections})


def initial(config: RunConfig, signature: TaskSignature) -> Params:
    return build_algorithm(config, signature).learner.init(0)


def image_learner(method: str = "protonet", protocol: str | None = None, **sections: Any) -> AdaptableLearner:
    config = image_config(method, **sections)
    return AdaptableLearner(config, IMAGES, initial(config, IMAGES), protocol)


@pytest.fixture
def waves() -> AdaptableLearner:
    config = wave_config()
    return AdaptableLearner(config, WAVES, initial(config, WAVES))


def images(*classes: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Noisy images [N, 1, SIDE, SIDE]; those of a class are alike."""
    rng, patterns = np.random.default_rng(seed), np.random.default_rng(99).random((10, 1, SIDE, SIDE))
    return np.stack([0.95 * patterns[each] + 0.05 * rng.random((1, SIDE, SIDE)) for each in classes])


SUPPORT = (0, 1, 2, 2, 1, 0)
LABELS: dict[str, Any] = {
    "strings": ["dog", "ant", "cat"],
    "gaps": [70, -3, 12],
    "booleans and a third": [0.5, 1.5, 0.25],
    "bytes": [b"x", b"y", b"a"],
    "dates": np.array(["2026-03-01", "2026-01-01", "2026-02-01"], dtype="datetime64[D]"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_are_predicted_in_that_type(kind: str) -> None:
    names = np.asarray(LABELS[kind])
    predict = image_learner(protocol="inductive").adapt(images(*SUPPORT), names[list(SUPPORT)])
    queries = (2, 0, 1, 1)
    labels = predict(images(*queries, seed=1))
    assert labels.dtype == names.dtype
    assert labels.tolist() == names[list(queries)].tolist()


def test_labels_may_come_in_a_list_or_a_column() -> None:
    learner, names = image_learner(), np.array(["a", "b", "c"])[list(SUPPORT)]
    expected = learner.adapt(images(*SUPPORT), names).outputs(images(0, 1))
    for targets in (names.tolist(), names[:, None]):
        assert np.array_equal(learner.adapt(images(*SUPPORT), targets).outputs(images(0, 1)), expected)


def test_outputs_are_in_the_sorted_order_of_the_labels() -> None:
    predict = image_learner(protocol="inductive").adapt(images(*SUPPORT), np.array(["c", "a", "b"])[list(SUPPORT)])
    outputs = predict.outputs(images(0, 1, 2))
    assert outputs.shape == (3, WAY)
    assert outputs.dtype == np.float64
    assert outputs.argmax(1).tolist() == [2, 0, 1]


@pytest.mark.parametrize(("method", "way"), [(name, WAY if name == "maml" else None) for name in METHODS])
def test_only_a_learner_with_a_trained_head_needs_the_trained_way(method: str, way: int | None) -> None:
    learner = image_learner(method)
    assert (learner.way, learner.is_classifier, learner.input_shape) == (way, True, (1, SIDE, SIDE))
    if way is None:
        assert learner.adapt(images(0, 1, 2, 3, 4), range(5)).outputs(images(0)).shape == (1, 5)
        return
    message = r"^support: 2 classes in the support set, but this learner was meta-trained for 3; allowed: exactly 3"
    with pytest.raises(UserError, match=message):
        learner.adapt(images(0, 1, 1), [0, 1, 1])
    assert learner.adapt(images(*SUPPORT), SUPPORT)(images(0, 1)).shape == (2,)


def test_the_support_set_decides_and_the_meta_parameters_stay() -> None:
    config = image_config("maml")
    params = initial(config, IMAGES)
    learner, before = AdaptableLearner(config, IMAGES, cloned(params)), digest(params)
    first = learner.adapt(images(*SUPPORT), SUPPORT).outputs(images(0))
    learner.adapt(images(3, 4, 5), range(3))
    again = learner.adapt(images(*SUPPORT), SUPPORT).outputs(images(0))
    assert np.array_equal(first, again)
    assert digest(learner._params) == before


def test_the_protocol_is_that_of_the_run_or_the_requested_one() -> None:
    queries = images(0, 1, 2, 3)
    for norm, protocol in (("batch", "transductive"), ("support", "inductive")):
        learner = image_learner(model=Conv4Config(filters=4, norm=norm))
        assert learner.protocol == protocol
        assert image_learner(model=Conv4Config(filters=4, norm=norm), protocol="inductive").protocol == "inductive"
        predict = learner.adapt(images(*SUPPORT), SUPPORT)
        alone = np.concatenate([predict.outputs(query[None]) for query in queries])
        assert np.allclose(predict.outputs(queries), alone) == (protocol == "inductive")
    with pytest.raises(UserError, match=r"^protocol: unknown protocol 'both'; allowed: transductive, inductive$"):
        image_learner(protocol="both")
    with pytest.raises(UserError, match=r"^protocol: unknown protocol 'transductive'; allowed: inductive$"):
        AdaptableLearner(wave_config(), WAVES, initial(wave_config(), WAVES), "transductive")


def test_regression_predicts_the_learners_values(waves: AdaptableLearner) -> None:
    x, y = np.linspace(-2, 2, 5)[:, None], np.sin(np.linspace(-2, 2, 5))[:, None]
    predictor = waves.adapt(x, y)
    assert (waves.way, waves.is_classifier) == (None, False)
    queries = np.linspace(-1, 1, 7)[:, None]
    values = predictor(queries)
    assert values.shape == (7, 1)
    assert np.array_equal(values, predictor.outputs(queries))
    learner = build_evaluators(waves.config, WAVES)["inductive"]
    support = Batch(torch.tensor(x), torch.tensor(y))
    expected = predict(learner, waves._params, adapt(learner, waves._params, support), support, torch.tensor(queries))
    assert np.allclose(values, expected.numpy(), rtol=1e-12)
    assert np.array_equal(waves.adapt(x.tolist(), y[:, 0].tolist())(queries.tolist()), values), "lists, one value each"


def test_types_are_those_of_the_run() -> None:
    learner = image_learner(engine=EngineConfig())
    outputs = learner.adapt(images(*SUPPORT).astype(np.float16), SUPPORT).outputs(images(0).tolist())
    assert outputs.dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (
            images(0, 1),
            [0],
            r"^support: 2 inputs and 1 targets; allowed: one target for each input, at least one input$",
        ),
        (images(0, 1), 0, r"^support: 2 inputs and 1 targets"),
        (images(0)[:0], [], r"^support: 0 inputs and 0 targets"),
        (images(0, 1)[:, 0], [0, 1], r"^support inputs: shape \[2, 16, 16\]; allowed: \[any number, 1, 16, 16\]$"),
        (images(0, 1)[..., :8], [0, 1], r"^support inputs: shape \[2, 1, 16, 8\]"),
        (3.0, [0], r"^support inputs: shape \[\]"),
        ("pixels", [0], r"^support inputs: not an array of numbers \(.*\); allowed: numbers$"),
        ([[0.0], [0.0, 1.0]], [0, 1], r"^support inputs: not an array of numbers"),
        (images(0, 1), [[0, 1], [1, 0]], r"^support targets: shape \[2, 2\]; allowed: \[2\] labels$"),
        (images(0, 1), [[0], [1, 0]], r"^support targets: not an array"),
        (images(0, 1), [None, "a"], r"^support targets: .*; allowed: labels that can be sorted$"),
    ],
)
def test_support_sets_that_do_not_fit_are_refused(inputs: Any, targets: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        image_learner().adapt(inputs, targets)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], r"^support targets: shape \[2, 2\]; allowed: \[any number, 1\]$"),
        (["one", "two"], r"^support targets: not an array of numbers"),
        ([1.0], r"^support: 2 inputs and 1 targets"),
    ],
)
def test_regression_targets_that_do_not_fit_are_refused(waves: AdaptableLearner, targets: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        waves.adapt([[0.0], [1.0]], targets)


@pytest.mark.parametrize("queries", [images(0)[0], images(0)[..., 1:], "pixels"])
def test_queries_that_do_not_fit_are_refused(queries: Any) -> None:
    predict = image_learner().adapt(images(*SUPPORT), SUPPORT)
    for call in (predict, predict.outputs):
        with pytest.raises(UserError, match=r"^query inputs: "):
            call(queries)


def save(config: RunConfig, params: Params, step: int = 3) -> str:
    state = ParameterServer(params, config.outer, 10).state_dict() | {"num_steps": step}
    return checkpoints.save(config, step, state, signature=WAVES)


def test_load_takes_the_meta_parameters_of_a_checkpoint(tmp_path: Path, waves: AdaptableLearner) -> None:
    config = wave_config(checkpoint=CheckpointConfig(path=str(tmp_path)))
    path = save(config, waves._params)
    x, y = [[0.0], [1.0]], [[1.0], [2.0]]
    for source in (path, str(tmp_path / "waves")):
        learner = distmeta.load(source)
        assert learner.config.algorithm == config.algorithm
        assert np.array_equal(learner.adapt(x, y)(x), waves.adapt(x, y)(x))


def test_load_refuses_parameters_of_another_network(tmp_path: Path, waves: AdaptableLearner) -> None:
    config = wave_config(checkpoint=CheckpointConfig(path=str(tmp_path)), model=MlpConfig(hidden=(9,)))
    with pytest.raises(UserError, match=r"step-00000003: parameter 'block1.weight' is torch.float64 \[8, 1\]"):
        distmeta.load(save(config, waves._params))
    with pytest.raises(UserError, match="nothing"):
        distmeta.load(str(tmp_path / "nothing"))
