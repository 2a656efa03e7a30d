"""Policies with a memory on trials: their network, what is recorded of trials, and the gradient of their return."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distmeta.config import (
    AlgorithmConfig,
    EngineConfig,
    NavigationTasks,
    PolicyConfig,
    PolicyGradientConfig,
    RunConfig,
)
from distmeta.core.policies import log_prob
from distmeta.core.types import EPISODES, Batch, Params
from distmeta.engine.ops import EagerOps
from distmeta.engine.trust_region import trial
from distmeta.methods import maml_rl, rl2
from distmeta.methods.build import Algorithm, build_algorithm
from distmeta.methods.estimators.base import Moment
from distmeta.methods.policy_gradient import PolicyGradient
from distmeta.models import build_backbone
from distmeta.models.base import HEAD, MEMORY
from distmeta.models.network import Network
from distmeta.program.program import MetaProgram
from distmeta.tasks import build_source
from distmeta.tasks.interaction import Rollouts
from distmeta.tasks.recording import Recording
from distmeta.tasks.trials import Trials

from ..tabular import HORIZON, REWARDS, TO_ONE, Tabular, episodes

UNITS, EPISODES_OF_A_TRIAL = 3, 2
NUM_SEEN = 2 + 2 + 2
"""State, action before (one-hot), reward and end before."""


def network(hidden: tuple[int, ...] = ()) -> Network:
    config = PolicyConfig(hidden=hidden, memory=UNITS, actions="categorical")
    return Network(build_backbone(config, (NUM_SEEN,), {HEAD: 2}, torch.float64))


def start(seed: int = 1, net: Network | None = None) -> Params:
    rng = torch.Generator().manual_seed(seed)
    found = (net or network()).backbone.init(0)
    return {name: 0.8 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64) for name, tensor in found.items()}


def of_torch(params: Params, hidden: bool) -> Callable[[Tensor], Tensor]:
    """The memories [B, H, M] by torch's own GRU."""
    gru = torch.nn.GRU(4 if hidden else NUM_SEEN, UNITS, batch_first=True, dtype=torch.float64)
    own = {"input": "ih", "state": "hh"}
    weights = {f"{end}_{own[name]}_l0": params[f"memory.{name}.{end}"] for name in own for end in ("weight", "bias")}

    def read(inputs: Tensor) -> Tensor:
        if hidden:
            inputs = torch.relu(inputs @ params["block1.weight"].T + params["block1.bias"])
        return torch.func.functional_call(gru, weights, (inputs,))[0]

    return read


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_the_memory_is_that_of_torchs_gru(hidden: tuple[int, ...]) -> None:
    net = network(hidden)
    params = {name: tensor.requires_grad_() for name, tensor in start(net=net).items()}
    inputs = torch.randn(4, 7, NUM_SEEN, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = of_torch(params, bool(hidden))(inputs)
    actual = net.features(params, inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
    body = [params[name] for name in net.backbone.groups()["body"]]
    grads = (torch.autograd.grad(each.square().sum(), body) for each in (actual, expected))
    torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-13)


def test_steps_one_by_one_give_what_the_whole_trial_gives() -> None:
    net, params = network((4,)), start(net=network((4,)))
    inputs = torch.randn(4, 7, NUM_SEEN, dtype=torch.float64)
    whole, memory = net(params, inputs), torch.zeros(4, UNITS, dtype=torch.float64)
    for t in range(7):
        features = net.features(params, torch.cat((inputs[:, t], memory), 1), tapped=True)
        memory = net.taps[MEMORY]
        torch.testing.assert_close(net.head(params, features), whole[:, t], rtol=1e-12, atol=1e-14)


def trials() -> Iterator[tuple[list[int], tuple[int, ...], float]]:
    """States, actions and the chance of the moves of every trial; where an episode ends it makes no difference."""
    length = EPISODES_OF_A_TRIAL * HORIZON
    inside = [t for t in range(length) if (t + 1) % HORIZON]
    for actions in itertools.product(range(2), repeat=length):
        for moves in itertools.product(range(2), repeat=len(inside)):
            states, chance = [0] * length, 1.0
            for t, following in zip(inside, moves, strict=True):
                to_one = float(TO_ONE[states[t], actions[t]])
                states[t + 1], chance = following, chance * (to_one if following else 1 - to_one)
            yield states, actions, chance


def every_trial(params: Params) -> tuple[Batch, Tensor]:
    """Every trial once, as `Rollouts` would record it, and the chances of the moves."""
    found = list(trials())
    states, actions = (torch.tensor([each[i] for each in found]) for i in range(2))
    rewards, time = REWARDS[states, actions], torch.arange(states.shape[1])
    ends = ((time + 1) % HORIZON == 0).double().expand(len(found), -1)
    before = [torch.nn.functional.one_hot(actions, 2).double(), rewards[..., None], ends[..., None]]
    seen = torch.cat([torch.zeros_like(each[:, :1]).expand(-1, 1, -1) for each in before], -1)
    seen = torch.cat((seen, torch.cat(before, -1)[:, :-1]), 1)
    inputs = torch.cat((torch.nn.functional.one_hot(states, 2).double(), seen), -1)
    marks = torch.nn.functional.one_hot(time // HORIZON, EPISODES_OF_A_TRIAL).double().expand(len(found), -1, -1)
    log_probs = log_prob(network()(params, inputs), actions).detach()
    batch = Batch(
        inputs,
        actions=actions,
        rewards=rewards,
        mask=torch.ones_like(rewards),
        log_probs=log_probs,
        **{EPISODES: marks},
    )
    return batch, torch.tensor([each[2] for each in found], dtype=torch.float64)


def test_the_chances_of_all_trials_are_one() -> None:
    batch, chances = every_trial(start())
    assert (chances * batch["log_probs"].sum(1).exp()).sum().item() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize(("discount", "normaliser"), [(1.0, HORIZON * EPISODES_OF_A_TRIAL)])
def test_the_expected_gradient_is_that_of_the_expected_return_of_trials(discount: float, normaliser: int) -> None:
    params = {name: tensor.requires_grad_() for name, tensor in start().items()}
    batch, chances = every_trial(params)
    memories = of_torch(params, hidden=False)(batch.inputs)
    outputs = memories @ params["head.weight"].T + params["head.bias"]
    likely = outputs.log_softmax(-1).gather(-1, batch["actions"][..., None])[..., 0].sum(1).exp()
    exact = -(chances * likely * batch["rewards"].sum(1)).sum() / normaliser
    config = PolicyGradientConfig(baseline="none", normalise=False, discount=discount, dependence=0.0)
    objective, weights = PolicyGradient(config), chances * batch["log_probs"].sum(1).exp()
    # The mean over equally frequent trials, weighted by how frequent they are.
    weighted = Batch(**{**batch, "rewards": batch["rewards"] * (weights * len(weights))[:, None]})
    loss, reported = objective(lambda inputs: network()(params, inputs), weighted)
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0)
    actual, expected = (torch.autograd.grad(each, list(params.values())) for each in (loss, exact))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)
    assert max(float(each.abs().max()) for each in expected) > 0.01
    assert (reported["return_1"] + reported["return_2"]).item() / 2 == pytest.approx(reported["return"].item())
    assert reported["return"].item() == pytest.approx(-HORIZON * exact.item())
    assert reported["length"].item() == HORIZON


def test_sampled_trials_are_as_frequent_as_they_are_likely() -> None:
    params, tasks = start(), episodes(2, 20_000, 1)
    net, memory = network(), torch.zeros(2 * 20_000, UNITS, dtype=torch.float64)

    def act(observations: Tensor) -> Tensor:
        nonlocal memory
        features = net.features(params, torch.cat((observations.flatten(0, 1), memory), 1), tapped=True)
        memory = net.taps[MEMORY]
        return net.head(params, features).reshape(*observations.shape[:2], -1)

    with torch.no_grad():
        batch = Rollouts(Trials(Tabular(), EPISODES_OF_A_TRIAL))(tasks, "support", 0, act)
    every, chances = every_trial(params)
    frequent = chances * every["log_probs"].sum(1).exp()
    mean, square = ((frequent * every["rewards"].sum(1) ** power).sum() for power in (1, 2))
    sampled = batch["rewards"].sum(2).flatten()
    assert abs(sampled.mean() - mean) < 4 * ((square - mean**2) / len(sampled)) ** 0.5
    assert batch["mask"].all()


def made(algorithm: AlgorithmConfig, **fields: object) -> tuple[Algorithm, Params, RunConfig]:
    config = RunConfig.model_validate(
        {
            "name": "trials",
            "tasks": NavigationTasks(shots=2, queries=3, eval_queries=2, horizon=4, episodes=2),
            "model": PolicyConfig(hidden=(5,), memory=4),
            "algorithm": algorithm,
            "engine": EngineConfig(dtype="float64"),
            **fields,
        }
    )
    algorithm_of_run = MetaProgram(config).algorithm
    return algorithm_of_run, algorithm_of_run.learner.init(0), config


@pytest.mark.parametrize("lift", ["loop", "vmap"])
@pytest.mark.parametrize("algorithm", [rl2(), maml_rl(steps=2)])
def test_what_acted_step_by_step_has_ratio_one_when_trials_are_read_whole(
    lift: str, algorithm: AlgorithmConfig
) -> None:
    found, meta, config = made(algorithm)
    source = build_source(config.tasks, 0, torch.float64)
    tasks = source.episodes(source.specs("train", 0, 3), found.train_roles)
    tasks = replace(tasks, supply=Recording(tasks.supply))
    ops = EagerOps(found.learner, lift, found.terms)
    state = ops.adapt(meta, tasks)
    asked = ops.asked(meta, state, tasks)["query"]
    acted = state if found.terms[0].at == "last" else None
    with torch.no_grad():
        outputs = ops.act(meta, acted, tasks, asked.inputs)
    torch.testing.assert_close(log_prob(outputs, asked["actions"]), asked["log_probs"], rtol=1e-12, atol=1e-13)
    assert trial(ops, found.terms, meta, meta, tasks)["kl"].abs().max() < 1e-14
    moved = {name: tensor + 0.1 for name, tensor in meta.items()}
    assert trial(ops, found.terms, meta, moved, tasks)["kl"].min() > 1e-4


@pytest.mark.parametrize("algorithm", [rl2(), pytest.param(maml_rl(), marks=pytest.mark.slow)])
def test_the_gradient_of_kept_trials_is_that_of_central_differences(algorithm: AlgorithmConfig) -> None:
    found, meta, config = made(algorithm)
    source = build_source(config.tasks, 0, torch.float64)
    tasks = source.episodes(source.specs("train", 0, 2), found.train_roles)
    tasks = replace(tasks, supply=Recording(tasks.supply))
    ops = EagerOps(found.learner, "loop", found.terms)

    def loss(params: Params) -> float:
        state = ops.adapt(params, tasks)
        return float(ops.score(params, state, tasks).metrics["loss"].sum())

    loss(meta)  # collects the trials that are kept
    at = {name: tensor + 0.02 for name, tensor in meta.items()}
    along = {name: torch.randn(tensor.shape, dtype=torch.float64) for name, tensor in at.items()}
    grad = found.estimator.estimate(ops, at, tasks, Moment(0)).grad
    slope = sum(float((grad[name] * along[name]).sum()) for name in grad)
    step = 1e-5
    ends = [loss({name: tensor + sign * step * along[name] for name, tensor in at.items()}) for sign in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_algorithms_are_built_from_a_signature_alone() -> None:
    _, meta, config = made(rl2())
    signature = build_source(config.tasks, 0, torch.float64).signature
    assert (signature.input_shape, signature.in_order) == ((2 + 2 + 2,), True)
    assert build_algorithm(config, signature).learner.init(0).keys() == meta.keys()
