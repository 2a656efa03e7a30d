"""Batches that are labelled as they come, without a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from distmeta.adapt import stream as streams
from distmeta.adapt.load import AdaptableLearner
from distmeta.config import (
    AlgorithmConfig,
    EngineConfig,
    MlpConfig,
    ResNet12Config,
    RunConfig,
    ShiftedTasks,
    SinusoidTasks,
)
from distmeta.core.errors import UserError
from distmeta.core.types import ROTATION, UNLABELLED, Batch, Episode
from distmeta.engine.engine import one_by_one
from distmeta.methods import bn_adapt, maml, method, pretrain, tent, ttt
from distmeta.methods.build import build_algorithm
from distmeta.tasks.base import TaskSignature
from distmeta.tasks.turned import turned

SIDE, CLASSES = 16, 4
SHAPE = (1, SIDE, SIDE)
OUTPUTS = {"support": CLASSES, "query": CLASSES, "unlabelled": CLASSES, "rotation": 4}
IMAGES = TaskSignature(SHAPE, CLASSES, OUTPUTS, "cross_entropy")
Array = npt.NDArray[np.float64]


def learner_of(
    algorithm: AlgorithmConfig, norm: str = "running", signature: TaskSignature = IMAGES
) -> AdaptableLearner:
    config = RunConfig(
        name="x",
        tasks=ShiftedTasks(),
        model=ResNet12Config.model_validate({"widths": (3, 3, 4, 8), "norm": norm}),
        algorithm=algorithm,
        engine=EngineConfig(dtype="float64"),
    )
    learner = build_algorithm(config, signature).learner
    return AdaptableLearner(config, signature, {**learner.init(0), **learner.backbone.buffers()})


def batches(*sizes: int) -> list[Array]:
    rng = np.random.default_rng(1)
    return [0.3 * number + rng.random((size, *SHAPE)) for number, size in enumerate(sizes)]


def by_hand(learner: AdaptableLearner, algorithm: AlgorithmConfig, protocol: str, every: list[Array]) -> list[Any]:
    """Outputs for each batch before its step and after it, by one task that holds all batches."""
    config = learner.config.model_copy(update={"algorithm": algorithm})
    ops = one_by_one(build_algorithm(config, IMAGES).evaluators[protocol])
    x = torch.from_numpy(np.concatenate(every))
    task = Episode({UNLABELLED: Batch(x[None]), ROTATION: turned(x[None])}).only(ops._learner.roles)
    params = learner._params
    states = [visit.state for visit in ops.walk(params, task, marks=(0,))]
    outputs = []
    for k, batch in enumerate(every):
        shown = torch.from_numpy(batch)[None]
        pair = [
            ops.predict(params, states[min(k + after, len(states) - 1)], task, shown, head="head") for after in (0, 1)
        ]
        outputs.append([each[0].numpy() for each in pair])
    return outputs


def test_an_online_stream_is_one_task_cut_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_FIRST_STEPS", 2)  # the learner is built again for more steps on the way
    learner, every = learner_of(tent()), batches(5, 5, 5, 5, 5)
    expected = by_hand(learner, tent(lr=0.05, steps=5, batch=5), "transductive", every)
    for after, order in enumerate(("before", "after")):
        label = learner.stream("tent", lr=0.05, predict=order)
        for batch, outputs in zip(every, expected, strict=True):
            np.testing.assert_allclose(label.outputs(batch), outputs[after], rtol=1e-10, atol=1e-12)
        assert label.batches == 5
    # The trained network itself does not change.
    again = learner.stream("tent", lr=0.05, predict="before")
    np.testing.assert_allclose(again.outputs(every[0]), expected[0][0], rtol=1e-10, atol=1e-12)


def test_an_episodic_stream_starts_each_batch_from_the_trained_network() -> None:
    learner, every = learner_of(tent(lr=0.05, steps=2)), batches(6, 3, 1)
    label = learner.stream(setting="episodic")
    for batch in every:
        alone = learner.stream("tent", lr=0.05, steps=2, setting="episodic")
        labels = label(batch)
        assert (labels.dtype, labels.shape) == (np.int64, (len(batch),))
        assert np.array_equal(labels, alone(batch))
    online = learner.stream("tent", lr=0.05, steps=2)
    outputs = [online.outputs(batch) for batch in every]
    assert not np.allclose(outputs[1], learner.stream("tent", lr=0.05, steps=2).outputs(every[1]))


def test_several_steps_a_batch_go_on_with_the_optimizer() -> None:
    learner, every = learner_of(tent()), batches(4, 4)
    config = tent(lr=0.02, steps=2)
    label = learner.stream(config)
    outputs = [label.outputs(batch) for batch in every]
    repeated = [batch for batch in every for _ in range(2)]
    expected = by_hand(learner, tent(lr=0.02, steps=4, batch=4), "transductive", repeated)
    np.testing.assert_allclose(outputs[0], expected[1][1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(outputs[1], expected[3][1], rtol=1e-10, atol=1e-12)


def test_statistics_of_each_batch() -> None:
    learner, every = learner_of(bn_adapt()), batches(7, 4)
    label = learner.stream("bn_adapt", protocol="inductive")
    transductive = learner.stream("bn_adapt", share=0.0)  # queries are normalised by themselves
    for batch in every:
        np.testing.assert_allclose(label.outputs(batch), transductive.outputs(batch), rtol=1e-9, atol=1e-12)


def test_rotations_of_a_stream() -> None:
    learner, every = learner_of(ttt(), "group"), batches(3, 3)
    label = learner.stream("ttt", lr=0.05)
    expected = by_hand(learner, ttt(lr=0.05, steps=2, batch=12), "inductive", every)
    for batch, outputs in zip(every, expected, strict=True):
        np.testing.assert_allclose(label.outputs(batch), outputs[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("algorithm", [tent(lr=0.05), ttt(lr=0.05), bn_adapt()], ids=lambda each: each.method)
def test_labelled_examples_are_adapted_to_without_their_labels(algorithm: AlgorithmConfig) -> None:
    learner, (batch,) = learner_of(algorithm), batches(8)
    labels = np.array([0, 1, 2, 3] * 2)
    first, second = (learner.adapt(batch, each).outputs(batch) for each in (labels, labels[::-1].copy()))
    assert np.array_equal(first, second)
    alone = learner.stream(protocol=learner.protocol).outputs(batch)
    np.testing.assert_allclose(first, alone, rtol=1e-10, atol=1e-12)


def test_a_network_that_was_pre_trained_for_all_classes() -> None:
    """Its evaluation tasks have fewer classes than the head."""
    signature = TaskSignature(SHAPE, 2, {"support": 2, "query": 2, "source": 7}, "cross_entropy")
    learner = learner_of(pretrain(), signature=signature)
    assert learner.stream("tent").outputs(batches(3)[0]).shape == (3, 7)


def test_what_cannot_be_streamed_is_refused_in_one_line() -> None:
    learner, (batch,) = learner_of(tent()), batches(2)
    cases: list[tuple[str, Any]] = [
        ("unknown setting 'offline'; allowed: online, episodic", lambda: learner.stream(setting="offline")),
        ("unknown predict 'never'; allowed: before, after", lambda: learner.stream(predict="never")),
        ("unknown method 'tents'; allowed: did you mean 'tent'", lambda: learner.stream("tents")),
        ("unexpected keyword argument 'rate'", lambda: learner.stream("tent", rate=0.1)),
        ("adapts to role 'support', which needs labels; allowed: a method of", lambda: learner.stream("maml")),
        ("needs parameter 'rotation.weight'", lambda: learner.stream("ttt")),
        ("unknown protocol 'x'; allowed: inductive, transductive", lambda: learner.stream(protocol="x")),
        ("shape [2, 1, 16]; allowed: [any number, 1, 16, 16]", lambda: learner.stream().outputs(batch[..., 0])),
        ("no example", lambda: learner.stream().outputs(batch[:0])),
    ]
    for message, act in cases:
        with pytest.raises(UserError) as caught:
            act()
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    waves = RunConfig(name="w", tasks=SinusoidTasks(), model=MlpConfig(hidden=(4,)), algorithm=maml(lr=0.1))
    signature = TaskSignature((1,), 1, {"support": 1, "query": 1}, "mse")
    regression = AdaptableLearner(waves, signature, build_algorithm(waves, signature).learner.init(0))
    with pytest.raises(UserError, match="a stream has images or vectors of classes"):
        regression.stream("tent")
    with pytest.raises(UserError, match="keeps no statistics to adapt"):
        learner_of(ttt(), "group").stream("bn_adapt")
    assert method("tent", lr=0.1).evaluate.learner is not None
