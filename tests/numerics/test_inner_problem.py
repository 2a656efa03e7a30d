"""Learned hyperparameters, losses and weights of examples, compared with loops written by hand in torch and with
central differences.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from distmeta.config import EngineConfig, Phase
from distmeta.core.types import Batch, Episode, Params
from distmeta.methods.learners.gradient import GradientLearner

from . import networks
from .problems import (
    EXACT,
    LOOP,
    VMAP,
    WAY,
    classification,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    regression,
    relative_error,
    single_tasks,
    worst_relative_error,
)

STEPS, LR = 3, 0.3
OUTPUTS = 2
LOSS = "inner.loss"
WEIGHTS = "inner.weights"
ENGINES = [
    pytest.param(LOOP, id="loop"),
    pytest.param(VMAP, id="vmap"),
    pytest.param(EngineConfig(strategy="vmap", memory="flat"), id="flat"),
    pytest.param(EngineConfig(strategy="compiled"), id="compiled", marks=pytest.mark.slow),
    pytest.param(EngineConfig(strategy="compiled_vmap"), id="compiled vmap", marks=pytest.mark.slow),
]
Inner = Callable[[Params, Params, Params, Batch], tuple[Tensor, Tensor]]
"""Meta-parameters, fast ones, those at the start, examples -> losses [N] and their weights [N], a penalty in both."""


def outputs_of(params: Params, inputs: Tensor, outputs: int) -> Tensor:
    net = networks.Mlp((6, 8, 7, outputs))
    return functional_call(net, {name: params[name] for name in net.state_dict()}, inputs)


def example_losses(params: Params, batch: Batch) -> Tensor:
    assert batch.targets is not None
    if batch.targets.is_floating_point():
        return (outputs_of(params, batch.inputs, OUTPUTS) - batch.targets).square().mean(1)
    return F.cross_entropy(outputs_of(params, batch.inputs, WAY), batch.targets, reduction="none")


def uniform(losses: Tensor) -> Tensor:
    return torch.full_like(losses, 1 / len(losses))


def hyperparameters_by_hand(meta: Params, fast: Params, start: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    losses, total = example_losses(fast, batch), torch.zeros((), dtype=torch.float64)
    for name, tensor in fast.items():
        strength = meta["inner.log_l2sp"][1 if name.startswith("head") else 0].exp()
        total = total + strength / 2 * (tensor - start[name]).pow(2).sum()
    return torch.cat((losses, total[None])), torch.cat((uniform(losses), torch.ones_like(losses[:1])))


def loss_by_hand(meta: Params, fast: Params, start: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.targets is not None
    if batch.targets.is_floating_point():
        read, labels = outputs_of(fast, batch.inputs, OUTPUTS), batch.targets
    else:
        read = outputs_of(fast, batch.inputs, WAY).log_softmax(1)
        labels = F.one_hot(batch.targets, WAY).double()
    losses = []
    for row, label in zip(read, labels, strict=True):
        of_outputs = []
        for output, target in zip(row, label, strict=True):
            x = torch.stack((output, target))
            for layer in (1, 2):
                x = torch.tanh(meta[f"{LOSS}.{layer}.weight"] @ x + meta[f"{LOSS}.{layer}.bias"])
            of_outputs.append(F.softplus(meta[f"{LOSS}.3.weight"] @ x + meta[f"{LOSS}.3.bias"]))
        losses.append(torch.stack(of_outputs).mean())
    return torch.stack(losses), uniform(read[:, 0])


def weights_by_hand(meta: Params, fast: Params, start: Params, batch: Batch) -> tuple[Tensor, Tensor]:
    losses, values = example_losses(fast, batch), []
    for loss in losses:
        hidden = F.relu(meta[f"{WEIGHTS}.1.weight"][:, 0] * loss + meta[f"{WEIGHTS}.1.bias"])
        values.append(torch.sigmoid(meta[f"{WEIGHTS}.2.weight"][0] @ hidden + meta[f"{WEIGHTS}.2.bias"][0]))
    kept = torch.stack(values)
    return losses, kept / kept.sum()


KINDS: dict[str, tuple[dict[str, object], Inner]] = {
    "hyperparameters": ({"kind": "hyperparameters", "groups": ["body", "head"], "l2sp": 0.4}, hyperparameters_by_hand),
    "loss": ({"kind": "loss", "width": 4}, loss_by_hand),
    "weights": ({"kind": "weights", "width": 4}, weights_by_hand),
}


def problem(kind: str, tasks: str) -> tuple[GradientLearner, Params, Episode]:
    episodes = classification(6) if tasks == "classification" else regression(outputs=OUTPUTS)
    backbone = mlp() if tasks == "classification" else mlp(outputs=OUTPUTS)
    objective = "cross_entropy" if tasks == "classification" else "mse"
    learner = gradient(backbone, Phase(lr=LR, steps=STEPS), objective=objective, inner=[KINDS[kind][0]])
    return learner, perturbed(learner.init(0), size=0.3), episodes


def outer_by_hand(meta: Params, task: Episode, inner: Inner) -> Tensor:
    """The query loss after steps whose weights are constants of the inner derivative, not of the outer one."""
    start = {name: tensor for name, tensor in meta.items() if not name.startswith("inner")}
    fast = dict(start)
    for _ in range(STEPS):
        losses, weights = inner(meta, fast, start, task.support)
        slopes = torch.autograd.grad(losses, list(fast.values()), weights, create_graph=True)
        moved = {}
        for (name, tensor), slope in zip(fast.items(), slopes, strict=True):
            factor = meta["inner.log_lr"][1 if name.startswith("head") else 0].exp() if "inner.log_lr" in meta else 1
            moved[name] = tensor - LR * factor * slope
        fast = moved
    return example_losses(fast, task.query).mean()


def leaves_of(meta: Params) -> Params:
    return {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tasks", ["classification", "regression"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_signal_is_that_of_a_loop_by_hand(kind: str, tasks: str, engine: EngineConfig) -> None:
    learner, meta, episodes = problem(kind, tasks)
    gradients = []
    for task in single_tasks(episodes):
        leaves = leaves_of(meta)
        grads = torch.autograd.grad(outer_by_hand(leaves, task, KINDS[kind][1]), list(leaves.values()))
        gradients.append(dict(zip(leaves, grads, strict=True)))
    found = mean_gradient(learner, EXACT, meta, episodes, engine)
    assert worst_relative_error(found, mean_over_tasks(gradients)) < 1e-9
    assert all(bool(found[name].any()) for name in meta if name.startswith("inner"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_signal_is_that_of_central_differences(kind: str) -> None:
    learner, meta, episodes = problem(kind, "classification")
    found, size = mean_gradient(learner, EXACT, meta, episodes), 1e-5
    for part in ("inner", ""):
        names = [name for name in meta if name.startswith(part)]
        noise = perturbed({name: torch.zeros_like(meta[name]) for name in names}, seed=3, size=1.0)

        def value(sign: int, noise: Params = noise) -> float:
            moved = leaves_of({**meta, **{name: meta[name] + sign * size * noise[name] for name in noise}})
            losses = [outer_by_hand(moved, task, KINDS[kind][1]) for task in single_tasks(episodes)]
            return float(torch.stack(losses).mean().detach())

        slope = (value(1) - value(-1)) / (2 * size)
        assert sum(float((found[name] * noise[name]).sum()) for name in names) == pytest.approx(slope, rel=1e-6)


def test_parts_that_change_nothing_give_the_signal_of_maml() -> None:
    """Factors of one, a learned loss of constant zero that is added, and equal weights: MAML."""
    episodes = classification(6)
    phase, backbone = Phase(lr=LR, steps=STEPS), mlp()
    inner = [
        {"kind": "hyperparameters", "groups": ["head"]},
        {"kind": "loss", "added": True, "width": 4},
        {"kind": "weights", "width": 4},
    ]
    learner = gradient(backbone, phase, inner=inner)
    meta = perturbed(backbone.init(0))
    own = {name: tensor for name, tensor in learner.init(0).items() if name not in meta}
    neutral = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
    assert set(own) >= {"inner.log_lr", f"{LOSS}.1.weight", f"{WEIGHTS}.2.bias"}
    found = mean_gradient(learner, EXACT, {**meta, **neutral}, episodes)
    expected = mean_gradient(gradient(backbone, phase), EXACT, meta, episodes)
    assert relative_error({name: found[name] for name in meta}, expected) < 1e-12


def test_strengths_pull_to_the_start_of_their_phase() -> None:
    """Two phases: the second one pulls to where the first one ended, as L2-SP of a fixed strength does."""
    episodes, strength = classification(6), 0.4
    phases, backbone = (Phase(lr=LR, steps=2), Phase(lr=LR, steps=2, groups=("head",))), mlp()
    inner = [{"kind": "hyperparameters", "lr": False, "l2sp": strength}]
    meta = perturbed(backbone.init(0))
    learner = gradient(backbone, *phases, inner=inner)
    fixed = gradient(backbone, *(phase.model_copy(update={"l2sp": strength}) for phase in phases))
    own = {name: tensor for name, tensor in learner.init(0).items() if name not in meta}
    found = mean_gradient(learner, EXACT, {**meta, **own}, episodes)
    expected = mean_gradient(fixed, EXACT, meta, episodes)
    assert relative_error({name: found[name] for name in meta}, expected) < 1e-12
