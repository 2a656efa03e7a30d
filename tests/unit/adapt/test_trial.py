"""Policies with a memory in environments of one's own: what they see, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distmeta.adapt.load import AdaptableLearner
from distmeta.config import EngineConfig, NavigationTasks, PolicyConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.methods import maml_rl, rl2
from distmeta.methods.build import build_algorithm, dtype_of
from distmeta.models.network import Network
from distmeta.tasks import build_source

from .test_policy import CONFIG as WITHOUT_MEMORY
from .test_policy import Corridor, Plane, learner_of

HORIZON = 7
CONFIG = RunConfig(
    name="trial",
    tasks=NavigationTasks(shots=1, queries=2, eval_queries=2, horizon=HORIZON, radius=0.2, episodes=2),
    model=PolicyConfig(hidden=(6,), memory=5),
    algorithm=rl2(),
    engine=EngineConfig(dtype="float64"),
)


class Watched(Plane):
    """It remembers its steps: (observation, action, reward, whether the episode is over)."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, Any]:
        self.steps = getattr(self, "steps", [])
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        before = self.x
        found = super().step(action)
        self.steps.append((before, action, found[1], found[2]))
        return found


def test_what_it_does_is_a_function_of_all_that_it_has_seen() -> None:
    environment = Watched()
    trial = learner_of(CONFIG).begin_trial(environment)
    returns = [trial.episode(greedy=True) for _ in range(2)]
    assert trial.returns == returns
    observations, actions, rewards, ends = (np.array(each) for each in zip(*environment.steps, strict=True))
    assert returns == pytest.approx([rewards[:HORIZON].sum(), rewards[HORIZON:].sum()])
    ends[HORIZON - 1] = True  # it is cut there
    seen = np.concatenate((actions, rewards[:, None], ends[:, None]), 1)
    inputs = np.concatenate((observations, np.concatenate((np.zeros((1, 4)), seen[:-1]))), 1)
    signature = build_source(CONFIG.tasks, CONFIG.seed, dtype_of(CONFIG)).signature
    learner = build_algorithm(CONFIG, signature).learner
    outputs = Network(learner.backbone)(learner.init(3), torch.from_numpy(inputs)[None])[0]
    assert actions == pytest.approx(outputs[:, :2].numpy())
    assert len(environment.steps) == 2 * HORIZON
    assert len(set(environment.seeds)) == 2


def test_a_new_trial_remembers_nothing_and_a_seed_repeats_its_draws() -> None:
    learner = learner_of(CONFIG)
    first, again, other = (learner.begin_trial(Plane(), seed=seed) for seed in (1, 1, 2))
    assert first.episode() == again.episode() != other.episode()
    assert first.episode() != first.returns[0]


def test_discrete_actions_are_numbers() -> None:
    config = CONFIG.model_copy(update={"model": PolicyConfig(hidden=(), memory=3, actions="categorical")})
    # Two numbers of the corridor, four actions one-hot, reward and end.
    signature = replace(build_source(config.tasks, 0, torch.float64).signature, input_shape=(2 + 4 + 2,))
    learner = AdaptableLearner(config, signature, build_algorithm(config, signature).learner.init(0))
    trial = learner.begin_trial(Corridor())
    action = trial.act([0.0, 1.0])
    assert action in range(4)
    trial.receive(1.0, ended=False)
    assert isinstance(trial.act([0.5, 1.0], greedy=True), int)


def learner_with_steps() -> AdaptableLearner:
    return learner_of(CONFIG.model_copy(update={"algorithm": maml_rl()}))


@pytest.mark.parametrize(
    ("made", "call", "message"),
    [
        (lambda: learner_of(WITHOUT_MEMORY), "begin_trial", r"begin_trial: this learner is no policy with a memory"),
        (lambda: learner_of(CONFIG), "adapt_policy", r"adapt_policy: this policy adapts by what it remembers"),
        (learner_with_steps, "begin_trial", r"begin_trial: this learner takes 3 inner steps"),
    ],
)
def test_other_learners_are_refused(made: Any, call: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        getattr(made(), call)(Plane())


@pytest.mark.parametrize(
    ("observation", "reward", "message"),
    [([0.0, 0.0, 0.0], 1.0, r"observations"), ([0.0, 0.0], float("nan"), r"environment: a reward of nan")],
)
def test_what_is_no_step_is_refused(observation: list[float], reward: float, message: str) -> None:
    trial = learner_of(CONFIG).begin_trial(Plane())
    with pytest.raises(UserError, match=message):
        trial.act(observation)
        trial.receive(reward, ended=False)
