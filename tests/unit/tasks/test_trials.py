"""Trials of several episodes: what policies see, where episodes begin and end, and what is recorded."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import NavigationTasks
from distmeta.core.types import EPISODES, Batch, Episode, Params
from distmeta.tasks import build_source
from distmeta.tasks.interaction import Outcome, Rollouts, Simulator
from distmeta.tasks.trials import Trials, in_trials

from ...tabular import HORIZON, Tabular, episodes


def navigation(**fields: object) -> Episode:
    settings = {"shots": 2, "queries": 2, "horizon": 6, "episodes": 3, **fields}
    source = build_source(NavigationTasks.model_validate(settings), 0, torch.float64)
    return source.episodes(source.specs("train", 0, 2))


def collect(tasks: Episode, act: object) -> Batch:
    assert tasks.supply is not None
    return tasks.supply(tasks, "support", 0, act)  # type: ignore[arg-type]


def drift(observations: Tensor) -> Tensor:
    """Always the same move, almost without noise."""
    move = torch.full_like(observations[..., :2], 0.5)
    return torch.cat((move, torch.full_like(move, -20.0)), -1)


def test_each_episode_begins_at_the_origin_and_sees_the_step_before() -> None:
    batch = collect(navigation(radius=1e-9), drift)
    assert batch.inputs.shape == (2, 2, 18, 6)
    position, action, reward, ended = batch.inputs.split([2, 2, 1, 1], -1)
    walked = 0.05 * torch.arange(6, dtype=torch.float64).repeat(3)
    torch.testing.assert_close(position, walked[:, None].expand(2, 2, 18, 2), rtol=0, atol=1e-6)
    assert not action[:, :, 0].any()
    assert not reward[:, :, 0].any()
    torch.testing.assert_close(action[:, :, 1:], batch["actions"][:, :, :-1])
    torch.testing.assert_close(reward[:, :, 1:, 0], batch["rewards"][:, :, :-1])
    assert torch.equal(ended[0, 0, :, 0].nonzero().flatten(), torch.tensor([6, 12]))
    assert torch.equal(batch[EPISODES][1, 1].argmax(-1), torch.arange(3).repeat_interleave(6))
    assert batch["mask"].all()


def test_an_episode_that_ends_early_gives_way_to_the_next_and_the_trial_ends_with_the_last() -> None:
    tasks = navigation(radius=0.1, goals=(0.2, 0.2))
    batch = collect(tasks, drift)
    # 0.05, 0.10, 0.15 in both coordinates: the third step is within 0.1 of (0.2, 0.2).
    assert torch.equal(batch["mask"][0, 0], torch.tensor([1.0] * 9 + [0.0] * 9, dtype=torch.float64))
    assert torch.equal(batch["rewards"][0, 0].nonzero().flatten(), torch.arange(9))
    assert torch.equal(batch[EPISODES][0, 0, :9].argmax(-1), torch.arange(3).repeat_interleave(3))
    torch.testing.assert_close(batch.inputs[0, 0, 3, :2], torch.zeros(2, dtype=torch.float64))
    assert torch.equal(batch.inputs[0, 0, :9, -1], torch.tensor([0.0, 0, 0, 1, 0, 0, 1, 0, 0], dtype=torch.float64))


class Drawn(Simulator):
    """A number that is drawn at the start, and another one in each step."""

    horizon, num_start_draws, num_draws = 2, 1, 1

    @override
    def start(self, rows: Batch, draws: Tensor) -> Params:
        return {"x": draws}

    @override
    def observe(self, state: Params) -> Tensor:
        return state["x"]

    @override
    def step(self, state: Params, actions: Tensor, draws: Tensor) -> Outcome:
        rewards = draws[..., 0]
        return Outcome({"x": state["x"] + 10}, rewards, torch.zeros_like(rewards, dtype=torch.bool))


def test_every_episode_has_a_start_of_its_own() -> None:
    rows = Batch(torch.zeros(2, 3, 1, dtype=torch.float64))
    tasks = Episode({"support": rows}, torch.tensor([4, 5]), supply=Rollouts(Trials(Drawn(), 4)))
    batch = collect(tasks, lambda observations: torch.zeros_like(observations[..., :2]))
    x = batch.inputs[..., 0]
    starts = x[..., ::2]
    assert len(starts.unique()) == 2 * 3 * 4
    assert ((starts >= 0) & (starts < 1)).all()
    torch.testing.assert_close(x[..., 1::2], starts + 10)
    again = collect(tasks.select([1]), lambda observations: torch.zeros_like(observations[..., :2]))
    assert torch.equal(again.inputs[0], batch.inputs[1])


def test_discrete_actions_are_seen_one_hot() -> None:
    tasks = episodes(2, 5, 1)
    batch = Rollouts(Trials(Tabular(), 2))(tasks, "support", 0, lambda observations: torch.zeros(2, 5, 2).double())
    assert batch.inputs.shape == (2, 5, 2 * HORIZON, 2 + 2 + 2)
    seen = batch.inputs[:, :, 1:, 2:4]
    assert torch.equal(seen, torch.nn.functional.one_hot(batch["actions"][:, :, :-1], 2).double())
    assert torch.equal(batch.inputs[:, :, HORIZON, :2], torch.tensor([1.0, 0.0]).double().expand(2, 5, 2))


def test_without_episodes_nothing_changes() -> None:
    simulator = Tabular()
    assert in_trials(simulator, (2,), None) == (simulator, (2,))
