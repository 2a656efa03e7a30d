"""OML and ANML, compared with a loop written by hand and with central differences through the whole trajectory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.config import BackpropConfig, ConvNetConfig, EngineConfig, GradientConfig
from distmeta.core.types import REMEMBER, TRAJECTORY, Batch, Episode, Params
from distmeta.methods import anml, oml
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.methods.objectives import cross_entropy
from distmeta.methods.terms import OuterTerm
from distmeta.models import build_backbone

from ..adapting import walk
from .problems import EXACT, FIRST_ORDER, LOOP, VMAP, mean_gradient, mean_over_tasks, perturbed, single_tasks
from .problems import worst_relative_error as error_of

CLASSES, OF_TASK, SHOTS = 9, 2, 5
LR = 0.2
TERMS = (OuterTerm(REMEMBER, cross_entropy, weight=0.7), OuterTerm(TRAJECTORY, cross_entropy, weight=0.3))
METHODS = {
    "oml": oml(LR, OF_TASK * SHOTS),
    "anml": anml(LR, OF_TASK * SHOTS),
    "anml, prediction network": anml(LR, OF_TASK * SHOTS, groups=("all",)),
}
ENGINES = [
    pytest.param(LOOP, id="loop"),
    pytest.param(VMAP, id="vmap"),
    pytest.param(EngineConfig(strategy="vmap", memory="flat"), id="flat"),
    pytest.param(EngineConfig(strategy="compiled_vmap", memory="flat"), id="compiled flat", marks=pytest.mark.slow),
]


def learner_of(name: str) -> GradientLearner:
    network = ConvNetConfig(filters=(4, 3), gate=(2, 3) if name.startswith("anml") else ())
    backbone = build_backbone(network, (1, 12, 12), {"head": CLASSES}, torch.float64)
    config = METHODS[name].learner
    assert type(config) is GradientConfig
    return GradientLearner(config, backbone, "cross_entropy")


def streams(tasks: int = 2, seed: int = 0) -> Episode:
    """T trajectories of OF_TASK classes, one after the other, and examples of all classes."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, 1, 12, 12, generator=rng, dtype=torch.float64)

    def batch(labels: Tensor) -> Batch:
        noise = torch.randn(*labels.shape, 1, 12, 12, generator=rng, dtype=torch.float64)
        return Batch(means[labels] + noise, labels)

    chosen = torch.stack([torch.randperm(CLASSES, generator=rng)[:OF_TASK] for _ in range(tasks)])
    everything = torch.stack([torch.arange(CLASSES) for _ in range(tasks)])
    return Episode({TRAJECTORY: batch(chosen.repeat_interleave(SHOTS, 1)), REMEMBER: batch(everything)})


def blocks(params: Params, name: str, x: Tensor) -> Tensor:
    """Convolution, norm of each channel of an image, ReLU; max pooling between the two blocks."""
    for block in range(2):
        at = name.format(block + 1, block)
        x = F.conv2d(x, params[f"{at}.0.weight"])
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        scale, shift = params[f"{at}.1.weight"], params[f"{at}.1.bias"]
        x = torch.relu((x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None])
        x = x if block else F.max_pool2d(x, 2)
    return x.flatten(1)


def outputs(params: Params, x: Tensor) -> Tensor:
    features = blocks(params, "block{0}", x)
    if "gate.linear.weight" in params:
        factors = F.linear(
            blocks(params, "gate.blocks.{1}", x), params["gate.linear.weight"], params["gate.linear.bias"]
        )
        features = features * torch.sigmoid(factors)
    return F.linear(features, params["head.weight"], params["head.bias"])


def by_hand(name: str, meta: Params, task: Episode) -> Tensor:
    """The outer loss of one task, after one step for each example of its trajectory."""
    stream, fast = task[TRAJECTORY], dict(meta)
    assert stream.targets is not None
    moving = [each for each in meta if each.startswith("head")]
    if name == "anml, prediction network":
        moving = [each for each in meta if not each.startswith("gate")]
    for part in ("head.weight", "head.bias"):
        kept = torch.ones(CLASSES, dtype=torch.bool)
        kept[stream.targets] = False
        fast[part] = torch.where(kept.reshape(-1, *[1] * (meta[part].dim() - 1)), meta[part], 0.0)
    for x, y in zip(stream.inputs, stream.targets, strict=True):
        loss = F.cross_entropy(outputs(fast, x[None]), y[None])
        slopes = torch.autograd.grad(loss, [fast[each] for each in moving], create_graph=True)
        fast |= {each: fast[each] - LR * slope for each, slope in zip(moving, slopes, strict=True)}
    losses = [
        term.weight * F.cross_entropy(outputs(fast, b.inputs), b["targets"])
        for term in TERMS
        for b in [task[term.role]]
    ]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("interpreted")
def test_the_gradient_is_that_of_the_loop_by_hand(name: str, engine: EngineConfig) -> None:
    learner, episodes = learner_of(name), streams()
    meta, gradients = perturbed(learner.init(0)), []
    for task in single_tasks(episodes):
        leaves = {each: tensor.clone().requires_grad_() for each, tensor in meta.items()}
        grads = torch.autograd.grad(by_hand(name, leaves, task), list(leaves.values()))
        gradients.append(dict(zip(leaves, grads, strict=True)))
    expected = mean_over_tasks(gradients)
    assert all(bool(grad.any()) for grad in expected.values())
    assert error_of(mean_gradient(learner, EXACT, meta, episodes, engine, TERMS), expected) < 1e-10
    # What the codes of both papers computed at first (mrcl #15, ANML #3) is another gradient.
    assert error_of(mean_gradient(learner, FIRST_ORDER, meta, episodes, engine, TERMS), expected) > 0.05


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_central_differences_through_the_whole_trajectory(name: str) -> None:
    learner, episodes = learner_of(name), streams()
    meta = perturbed(learner.init(0))
    actual = mean_gradient(learner, EXACT, meta, episodes, VMAP, TERMS)

    def outer(meta: Params) -> float:
        leaves = {each: tensor.clone().requires_grad_() for each, tensor in meta.items()}
        return float(torch.stack([by_hand(name, leaves, task) for task in single_tasks(episodes)]).mean().detach())

    rng = torch.Generator().manual_seed(1)
    for group in ("block1", "block2", "head", "gate")[: 4 if name.startswith("anml") else 3]:
        direction = {
            each: torch.randn(tensor.shape, generator=rng, dtype=torch.float64) * each.startswith(group)
            for each, tensor in meta.items()
        }
        ahead, behind = (
            outer({each: tensor + sign * 1e-6 * direction[each] for each, tensor in meta.items()}) for sign in (1, -1)
        )
        slope = sum(float((actual[each] * direction[each]).sum()) for each in actual)
        assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-6), group


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_the_classes_start_from_zeros_and_the_gate_stays(name: str) -> None:
    learner, episodes = learner_of(name), streams()
    meta = perturbed(learner.init(0))
    for task in single_tasks(episodes):
        targets = task[TRAJECTORY].targets
        assert targets is not None
        others = sorted(set(range(CLASSES)) - set(targets.tolist()))
        start, *_, end = (fast.moved for fast in walk(learner, meta, task))
        assert not any(part.startswith("gate") for part in start)
        for part in ("head.weight", "head.bias"):
            assert not start[part][targets].any()
            assert torch.equal(start[part][others], meta[part][others])
            assert not torch.equal(end[part], start[part])
        # The values that are replaced have no part in the loss.
        grad = mean_gradient(
            learner, EXACT, meta, Episode({r: b.map(lambda x: x[None]) for r, b in task.roles.items()}), LOOP, TERMS
        )
        assert not grad["head.weight"][targets].any()
        assert grad["head.weight"][others].any()


def test_the_order_of_the_examples_matters() -> None:
    learner, episodes = learner_of("oml"), streams()
    meta = perturbed(learner.init(0))
    backwards = Episode({**episodes.roles, TRAJECTORY: episodes[TRAJECTORY].map(lambda tensor: tensor.flip(1))})
    one, two = (
        mean_gradient(learner, Backprop(BackpropConfig()), meta, each, VMAP, TERMS) for each in (episodes, backwards)
    )
    assert error_of(two, one) > 1e-3
