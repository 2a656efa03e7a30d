"""Policies adapted in environments of one's own: those of the engine for the same draws, and what does not fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distmeta.adapt.load import AdaptableLearner
from distmeta.config import EngineConfig, MlpConfig, NavigationTasks, PolicyConfig, RunConfig, SinusoidTasks
from distmeta.core.errors import UserError
from distmeta.core.types import SUPPORT
from distmeta.engine.engine import one_by_one
from distmeta.methods import maml, maml_rl
from distmeta.methods.build import build_algorithm, build_evaluators, dtype_of
from distmeta.tasks import build_source

HORIZON, SHOTS, STEPS = 7, 4, 3
CONFIG = RunConfig(
    name="policy",
    tasks=NavigationTasks(shots=SHOTS, queries=2, eval_queries=2, horizon=HORIZON, radius=0.2),
    model=PolicyConfig(hidden=(6, 5)),
    algorithm=maml_rl(lr=0.3, eval_steps=STEPS),
    engine=EngineConfig(dtype="float64"),
)
GOAL = (0.3, -0.4)


class Plane:
    """2D navigation with gymnasium's interface, a point at a time."""

    def __init__(self, goal: tuple[float, float] = GOAL, **others: Any) -> None:
        self.goal, self.seeds, self.x = np.array(goal), [], np.zeros(2)
        self.__dict__.update(others)

    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:
        self.seeds.append(seed)
        self.x = np.zeros(2)
        return self.x, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        self.x = self.x + 0.1 * np.clip(action, -1, 1)
        distance = np.linalg.norm(self.x - self.goal)
        return self.x, -distance, bool(distance < 0.2), False, {}


def learner_of(config: RunConfig = CONFIG) -> AdaptableLearner:
    source = build_source(config.tasks, config.seed, dtype_of(config))
    params = build_algorithm(config, source.signature).learner.init(3)
    return AdaptableLearner(config, source.signature, params)


def test_it_is_the_policy_that_the_engine_adapts_to_the_same_draws() -> None:
    source = build_source(CONFIG.tasks, CONFIG.seed, torch.float64)
    [spec] = source.specs("test", 0, 1)
    task = source.episodes([spec], {SUPPORT: 4})
    assert task.seeds is not None
    [evaluator] = build_evaluators(CONFIG, source.signature).values()
    ops, meta = one_by_one(evaluator), build_algorithm(CONFIG, source.signature).learner.init(3)
    places = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = ops.act(meta, ops.adapt(meta, task), task, places[None])[0]

    environment = Plane(tuple(task.support["goals"][0, 0].tolist()))
    policy = learner_of().adapt_policy(environment, seed=int(task.seeds))
    torch.testing.assert_close(policy.outputs(places), expected, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(policy.outputs(places), ops.act(meta, None, task, places[None])[0], atol=1e-3)
    assert policy.returns.shape == (STEPS, SHOTS)
    assert len(set(environment.seeds)) == len(environment.seeds) == STEPS * SHOTS


def test_the_same_seed_gives_the_same_policy_and_another_one_another() -> None:
    place = np.array([[0.1, 0.2]])
    first, again, other = (
        learner_of().adapt_policy(Plane(), seed=seed, trajectories=2, horizon=5)(place, greedy=True)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_actions_are_drawn_or_greedy_for_one_observation_and_for_several() -> None:
    policy = learner_of().adapt_policy(Plane())
    one, several = np.array([0.1, 0.2]), np.tile([0.1, 0.2], (4000, 1))
    mean, log_std = policy.outputs(torch.from_numpy(several[:1]))[0].chunk(2)
    assert policy(one).shape == (2,)
    assert policy(one, greedy=True) == pytest.approx(mean.numpy())
    drawn = policy(several)
    assert drawn.shape == (4000, 2)
    assert drawn.mean(0) == pytest.approx(mean.numpy(), abs=0.1)
    assert drawn.std(0) == pytest.approx(log_std.exp().numpy(), rel=0.1)


class Corridor:
    """Left or right on a line; the end on the right is the better one."""

    action_space = SimpleNamespace(n=4)

    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:
        self.x = [0.0, 1.0]
        return self.x, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        assert isinstance(action, int)
        return self.x, float(action == 3), False, False, {}


def test_discrete_actions_are_numbers_and_the_rewarded_one_becomes_likelier() -> None:
    config = CONFIG.model_copy(update={"model": MlpConfig(hidden=(8,)), "algorithm": maml_rl(lr=2.0, eval_steps=3)})
    learner = learner_of(config)
    policy = learner.adapt_policy(Corridor(), trajectories=20)
    likelihoods = policy.outputs(torch.tensor([[0.0, 1.0]], dtype=torch.float64))[0].softmax(-1)
    assert int(likelihoods.argmax()) == policy([0.0, 1.0], greedy=True) == 3
    assert policy.returns[-1].mean() > policy.returns[0].mean()
    assert isinstance(policy([0.0, 1.0]), int)
    assert set(np.unique(policy(np.tile([0.0, 1.0], (50, 1))))) <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        (Plane(), {"trajectories": 0}, "trajectories: 0; allowed: 1 or more"),
        (Plane(), {"horizon": -1}, "horizon: -1; allowed: 1 or more"),
        (Plane(action_space=SimpleNamespace(n=3)), {}, "environment: 3 discrete actions; allowed: 4"),
        (Plane(action_space=SimpleNamespace(shape=(3,))), {}, r"environment: actions of shape \[3\]; allowed: \[2\]"),
        (Plane(reset=lambda seed: ([0.0], {})), {}, r"observations: shape \[1, 1\]"),
        (Plane(step=lambda action: ([0, 0], float("nan"), False, False, {})), {}, "environment: a reward of nan"),
        (Plane(step=lambda action: ([0, 0], "much", False, False, {})), {}, "rewards: not an array of numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(environment: Plane, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        learner_of().adapt_policy(environment, **options)


def test_policies_act_and_classifiers_label() -> None:
    with pytest.raises(UserError, match=r"adapt: a policy is adapted where it acts; allowed: adapt_policy"):
        learner_of().adapt([[0.0, 0.0]], [0])
    config = RunConfig(name="waves", tasks=SinusoidTasks(), model=MlpConfig(hidden=(4,)), algorithm=maml())
    with pytest.raises(UserError, match=r"adapt_policy: this learner does not act; allowed: adapt\(inputs, targets\)"):
        learner_of(config).adapt_policy(Plane())
