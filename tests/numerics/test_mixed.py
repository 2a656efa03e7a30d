"""Cells of mixed operations, compared with a network written by hand in torch: outputs, and MAML's signal by weights
and mixing weights, also by central differences.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distmeta.config import EngineConfig, MixedConfig, Phase
from distmeta.core.tensors import digest
from distmeta.core.types import Batch, Episode, Params
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models import build_backbone
from distmeta.models.base import HEAD, Backbone, Frame
from distmeta.models.mixed import MIXING, mixing_weights

from ..adapting import adapt
from .problems import (
    EXACT,
    LOOP,
    VMAP,
    WAY,
    classification,
    gradient,
    mean_gradient,
    mean_over_tasks,
    perturbed,
    single_tasks,
    worst_relative_error,
)

SIDE, STEPS, LR = 10, 2, 0.2
CONFIG = MixedConfig(
    filters=3, cells=2, operations=("conv3x3", "avg_pool", "zero", "max_pool", "conv1x1", "skip"), nodes=2
)
EDGES = ((0, 1), (0, 2), (1, 2))
ENGINES = [
    pytest.param(LOOP, id="loop"),
    pytest.param(VMAP, id="vmap"),
    pytest.param(EngineConfig(strategy="compiled"), id="compiled", marks=pytest.mark.slow),
]


def mixed(**settings: object) -> Backbone:
    return build_backbone(CONFIG.model_copy(update=settings), (1, SIDE, SIDE), {HEAD: WAY}, torch.float64)


def images() -> Episode:
    return classification(1, SIDE, SIDE)


def norm(x: Tensor, params: Params, name: str) -> Tensor:
    return F.batch_norm(x, None, None, params[f"{name}.norm.weight"], params[f"{name}.norm.bias"], True)


def operation_by_hand(params: Params, name: str, operation: str, x: Tensor) -> Tensor:
    if operation == "conv3x3":
        return norm(F.conv2d(F.relu(x), params[f"{name}.conv.weight"], padding=1), params, name)
    if operation == "conv1x1":
        return norm(F.conv2d(F.relu(x), params[f"{name}.conv.weight"][:, :, None, None]), params, name)
    if operation == "skip":
        return x
    if operation == "zero":
        return 0 * x
    pool = F.max_pool2d(x, 3, 1, 1) if operation == "max_pool" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.batch_norm(pool, None, None, None, None, True)


def by_hand(params: Params, x: Tensor) -> Tensor:
    x = F.relu(norm(F.conv2d(x, params["block1.conv.weight"], stride=2, padding=1), params, "block1"))
    for cell in (2, 3):
        nodes = [x, 0, 0]
        for edge, (before, after) in enumerate(EDGES):
            exponentials = params[MIXING][edge].exp()
            for weight, operation in zip(exponentials / exponentials.sum(), CONFIG.operations, strict=True):
                name = f"block{cell}.edge{before}{after}.{operation}"
                nodes[after] = nodes[after] + weight * operation_by_hand(params, name, operation, nodes[before])
        x = (nodes[1] + nodes[2]) / 2
        x = F.max_pool2d(x, 2) if cell == 2 else x
    return F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])


def loss_by_hand(params: Params, batch: Batch) -> Tensor:
    return F.cross_entropy(by_hand(params, batch.inputs), batch.targets)


def outer_by_hand(meta: Params, task: Episode) -> Tensor:
    """Inner steps move everything but the mixing weights."""
    fast = dict(meta)
    moving = [name for name in meta if name != MIXING]
    for _ in range(STEPS):
        slopes = torch.autograd.grad(
            loss_by_hand(fast, task.support), [fast[name] for name in moving], create_graph=True
        )
        fast |= {name: fast[name] - LR * slope for name, slope in zip(moving, slopes, strict=True)}
    return loss_by_hand(fast, task.query)


def learner_of(backbone: Backbone) -> GradientLearner:
    return gradient(backbone, Phase(lr=LR, steps=STEPS), frozen=("architecture",))


def test_outputs_are_those_of_a_network_by_hand() -> None:
    backbone = mixed()
    params, (task, *_) = perturbed(backbone.init(0), size=0.3), single_tasks(images())
    features = backbone.features(params, task.query.inputs, Frame())
    torch.testing.assert_close(backbone.head(params, features), by_hand(params, task.query.inputs))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_signal_is_that_of_a_loop_by_hand(engine: EngineConfig) -> None:
    backbone, episodes, gradients = mixed(), images(), []
    meta = perturbed(backbone.init(0), size=0.2)
    for task in single_tasks(episodes):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        grads = torch.autograd.grad(outer_by_hand(leaves, task), list(leaves.values()))
        gradients.append(dict(zip(leaves, grads, strict=True)))
    found = mean_gradient(learner_of(backbone), EXACT, meta, episodes, engine)
    assert worst_relative_error(found, mean_over_tasks(gradients), floor=1e-3) < 1e-9
    assert bool(found[MIXING].any())


def test_the_signal_of_mixing_weights_is_that_of_central_differences() -> None:
    backbone, episodes, size = mixed(), images(), 1e-6
    meta = perturbed(backbone.init(0), size=0.2)
    (noise,) = perturbed({MIXING: torch.zeros_like(meta[MIXING])}, seed=3, size=1.0).values()

    def value(sign: int) -> float:
        moved = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
        moved[MIXING] = meta[MIXING] + sign * size * noise
        return float(torch.stack([outer_by_hand(moved, task).detach() for task in single_tasks(episodes)]).mean())

    found = mean_gradient(learner_of(backbone), EXACT, meta, episodes)
    slope = (value(1) - value(-1)) / (2 * size)
    assert float((found[MIXING] * noise).sum()) == pytest.approx(slope, rel=1e-5)


def test_inner_steps_do_not_move_the_mixing_weights() -> None:
    backbone = mixed()
    fast = adapt(learner_of(backbone), backbone.init(0), single_tasks(images())[0].support)
    assert set(fast.moved) == set(backbone.groups()["all"]) - {MIXING}


def test_the_protocols_differ_and_an_inductive_prediction_is_of_one_query_alone() -> None:
    backbone = mixed()
    params, (task, *_) = perturbed(backbone.init(0)), single_tasks(images())
    inductive, queries = backbone.under("inductive"), task.query.inputs
    whole = inductive.features(params, queries, Frame(context=task.support.inputs))
    alone = inductive.features(params, queries[:1], Frame(context=task.support.inputs))
    torch.testing.assert_close(whole[:1], alone)
    assert not torch.allclose(whole, backbone.features(params, queries, Frame(context=task.support.inputs)))


def test_a_network_of_chosen_operations_is_the_limit_of_the_mixed_one() -> None:
    """Mixing weights that are large for one operation of each edge, and the same parameters."""
    backbone, names = mixed(), ("conv1x1", "skip", "avg_pool")
    params, (task, *_) = perturbed(backbone.init(0)), single_tasks(images())
    large = torch.full_like(params[MIXING], -60.0)
    for edge, name in enumerate(names):
        large[edge, CONFIG.operations.index(name)] = 60.0
    params = {**params, MIXING: large}
    found = mixing_weights(CONFIG, params)
    assert [weights[name] for weights, name in zip(found, names, strict=True)] == [1.0] * 3
    chosen = mixed(chosen=names)
    few = {name: params[name] for name in chosen.init(0)}
    assert MIXING not in few
    inputs = task.query.inputs
    torch.testing.assert_close(chosen.features(few, inputs, Frame()), backbone.features(params, inputs, Frame()))
    assert digest(chosen.init(1)) != digest(chosen.init(2))
