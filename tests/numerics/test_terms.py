"""Terms of the outer loss at every place, through several heads, against one autograd graph of the whole task."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from distmeta.config import EngineConfig, Phase
from distmeta.core.types import QUERY, SOURCE, SUPPORT, Batch, Episode, Params
from distmeta.methods.objectives import Forward, cross_entropy
from distmeta.methods.terms import OuterTerm

from . import networks
from .problems import (
    EXACT,
    FIRST_ORDER,
    LOOP,
    VMAP,
    WAY,
    classification,
    gradient,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    single_tasks,
    update,
    worst_relative_error,
)

LR, STEPS, CLASSES, TOLERANCE = 0.3, 3, 7, 1e-11
EACH = OuterTerm(QUERY, cross_entropy, weight=0.4, at="each")
LAST = OuterTerm(QUERY, cross_entropy)
JOINT = OuterTerm(SOURCE, cross_entropy, weight=0.3, at="meta", head="source")
ENGINES = [
    LOOP,
    VMAP,
    EngineConfig(strategy="loop", memory="flat"),
    EngineConfig(strategy="vmap", memory="flat", chunk=1),
]
COMPILED = [EngineConfig(strategy="compiled"), EngineConfig(strategy="compiled_vmap", memory="flat")]
STRATEGIES = [
    pytest.param(engine, id=f"{engine.strategy}-{engine.memory}", marks=marks)
    for engines, marks in ((ENGINES, ()), (COMPILED[:1], pytest.mark.thorough), (COMPILED[1:], pytest.mark.slow))
    for engine in engines
]


def with_source(episodes: Episode) -> Episode:
    """The tasks, with examples of seven classes as role `source`."""
    rng = torch.Generator().manual_seed(5)
    inputs = torch.randn(episodes.num_tasks, 9, 6, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (episodes.num_tasks, 9), generator=rng)
    return Episode({**episodes.roles, SOURCE: Batch(inputs, labels)})


def loss_of(params: Params, batch: Batch, head: str = "head") -> Tensor:
    """Cross-entropy through a head."""
    own = {name: tensor for name, tensor in params.items() if name.startswith("block")}
    last = {f"head.{part}": params[f"{head}.{part}"] for part in ("weight", "bias")}
    return F.cross_entropy(functional_call(networks.Mlp((6, 8, 7, WAY)), own | last, batch.inputs), batch.targets)


def by_autograd(meta: Params, task: Episode, terms: tuple[OuterTerm, ...], *, first_order: bool) -> Params:
    """Gradient of the outer loss of one task by one graph over all inner steps."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    moving = [name for name in leaves if not name.startswith("source")]  # no inner loss depends on that head
    fast, total = dict(leaves), torch.zeros((), dtype=torch.float64)
    for k in range(STEPS):
        slopes = torch.autograd.grad(
            loss_of(fast, task.support), [fast[name] for name in moving], create_graph=not first_order
        )
        fast = fast | {name: fast[name] - LR * slope for name, slope in zip(moving, slopes, strict=True)}
        for term in terms:
            if term.at == "each" or (term.at == "last" and k == STEPS - 1):
                total = total + term.weight * loss_of(fast, task[term.role], term.head)
    for term in terms:
        if term.at == "meta":
            total = total + term.weight * loss_of(leaves, task[term.role], term.head)
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


TERMS: dict[str, tuple[OuterTerm, ...]] = {
    "each": (EACH,),
    "each and last": (LAST, EACH),
    "each and meta": (EACH, JOINT),
    "two roles and heads": (LAST, JOINT),
    "all places": (LAST, EACH, JOINT),
}


@pytest.mark.parametrize("engine", STRATEGIES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "all places" else pytest.mark.slow) for name in TERMS]
)
@pytest.mark.usefixtures("interpreted")
def test_the_gradient_is_that_of_one_graph(name: str, engine: EngineConfig) -> None:
    terms, episodes = TERMS[name], with_source(classification(6))
    backbone = mlp(source=CLASSES)
    meta, learner = perturbed(backbone.init(0)), gradient(mlp(source=CLASSES), Phase(lr=LR, steps=STEPS))
    for estimator in (EXACT, FIRST_ORDER):
        expected = mean_over_tasks(
            [by_autograd(meta, task, terms, first_order=estimator is FIRST_ORDER) for task in single_tasks(episodes)]
        )
        actual = mean_gradient(learner, estimator, meta, episodes, engine, terms)
        assert worst_relative_error(actual, expected) < TOLERANCE
        if JOINT not in terms:
            assert not expected["source.weight"].any()


def test_metrics_are_those_after_adaptation_whatever_is_scored_on_the_way() -> None:
    episodes, learner = classification(6), gradient(mlp(), Phase(lr=LR, steps=STEPS))
    meta = perturbed(learner.init(0))
    last = update(learner, EXACT, meta, episodes, terms=(LAST,)).metrics
    both = update(learner, EXACT, meta, episodes, terms=(LAST, EACH)).metrics
    assert {name: both[name] for name in last} == pytest.approx(last)


def masked(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the examples that the mask keeps."""
    assert batch.targets is not None
    losses = F.cross_entropy(forward(batch.inputs), batch.targets, reduction="none")
    return (losses * batch["mask"]).sum() / batch["mask"].sum(), {}


@pytest.mark.parametrize("engine", STRATEGIES)
@pytest.mark.usefixtures("interpreted")
def test_a_third_tensor_reaches_objectives_through_every_strategy(engine: EngineConfig) -> None:
    plain, learner = classification(6, tasks=3), gradient(mlp(), Phase(lr=LR, steps=STEPS))
    query, count = plain.query, 4
    mask = (torch.arange(query.inputs.shape[1]) < count).double().expand(3, -1)
    assert query.targets is not None
    episodes = Episode({SUPPORT: plain.support, QUERY: Batch(query.inputs, query.targets, mask=mask)})
    kept = Episode({SUPPORT: plain.support, QUERY: query.map(lambda tensor: tensor[:, :count])})
    meta = perturbed(learner.init(0))
    actual = mean_gradient(learner, EXACT, meta, episodes, engine, (OuterTerm(QUERY, masked),))
    assert worst_relative_error(actual, mean_gradient(learner, EXACT, meta, kept)) < TOLERANCE
