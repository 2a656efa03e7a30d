"""Navigation, and trajectories in general: what interactive tasks answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distmeta.config import NavigationTasks
from distmeta.core.types import Batch, Episode
from distmeta.tasks import TaskSource, build_source
from distmeta.tasks.navigation import Navigation

from ...tabular import TO_ONE, episodes


def source(**fields: object) -> TaskSource:
    config = NavigationTasks.model_validate({"shots": 3, "queries": 2, "eval_queries": 4, "horizon": 12, **fields})
    return build_source(config, 0, torch.float64)


def towards(goal: Tensor) -> object:
    """A policy that knows the goal, almost without noise."""

    def act(observations: Tensor) -> Tensor:
        move = (goal[:, None] - observations) / 0.1
        return torch.cat((move, torch.full_like(move, -12.0)), -1)

    return act


def still(observations: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(observations), torch.zeros_like(observations)), -1)


def collect(tasks: Episode, role: str = "support", k: int = 0, act: object = still) -> Batch:
    assert tasks.supply is not None
    return tasks.supply(tasks, role, k, act)  # type: ignore[arg-type]


def test_rows_are_points_at_the_origin_with_one_goal_for_each_task() -> None:
    tasks = source().episodes(source().specs("train", 0, 5))
    assert tasks.support.inputs.shape == (5, 3, 2)
    assert tasks.query.inputs.shape == (5, 2, 2)
    assert not tasks.support.inputs.any()
    goals = tasks.support["goals"]
    assert torch.equal(goals, goals[:, :1].expand_as(goals))
    assert torch.equal(goals[:, 0], tasks.query["goals"][:, 0])
    assert goals.abs().max() <= 0.5
    assert source().episodes(source().specs("test", 0, 1)).query.inputs.shape == (1, 4, 2)


def test_goals_fill_the_square() -> None:
    goals = source().episodes(source().specs("train", 0, 2000)).query["goals"][:, 0]
    assert goals.mean(0).abs().max() < 0.02
    torch.testing.assert_close(goals.var(0), torch.full((2,), 1 / 12, dtype=torch.float64), rtol=0.05, atol=0)


def test_a_step_by_hand() -> None:
    environment = Navigation(NavigationTasks())
    goal = torch.tensor([[[0.3, -0.4]]])
    state = environment.start(Batch(torch.zeros(1, 1, 2), goals=goal), torch.zeros(1, 1, 0))
    state, rewards, ends = environment.step(state, torch.tensor([[[5.0, -0.5]]]), torch.zeros(1, 1, 0))
    torch.testing.assert_close(environment.observe(state), torch.tensor([[[0.1, -0.05]]]))
    torch.testing.assert_close(rewards, torch.tensor([[-((0.2**2 + 0.35**2) ** 0.5)]]))
    assert not ends.any()
    squared = Navigation(NavigationTasks(reward="squared")).step(state, torch.zeros(1, 1, 2), torch.zeros(1, 1, 0))
    torch.testing.assert_close(squared.rewards, torch.tensor([[-(0.2**2 + 0.35**2)]]))


def test_a_trajectory_ends_at_the_goal() -> None:
    tasks = source().episodes(source().specs("train", 0, 6))
    goal = tasks.support["goals"][:, 0]
    batch = collect(tasks, act=towards(goal))
    steps = (goal.abs().amax(1) / 0.1).ceil()
    torch.testing.assert_close(batch["mask"].sum(2), steps[:, None].expand(6, 3))
    assert not (batch["rewards"] * (1 - batch["mask"])).any()
    assert (batch["rewards"].sum(2) > -6 * 0.71).all()


def test_trajectories_are_a_function_of_the_seed_whoever_is_beside() -> None:
    origin = source()
    tasks = origin.episodes(origin.specs("train", 3, 6))
    whole, again = collect(tasks), collect(origin.episodes(origin.specs("train", 3, 6)))
    part = collect(tasks.select([4, 1]))
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name])
        torch.testing.assert_close(part[name], tensor[[4, 1]], rtol=1e-12, atol=1e-12)


def test_steps_roles_and_tasks_draw_differently() -> None:
    tasks = source(queries=3).episodes(source(queries=3).specs("train", 0, 2))
    first = collect(tasks)["actions"]
    others = (collect(tasks, k=1), collect(tasks, role="query"))
    assert all((other["actions"] != first).all() for other in others)
    assert (first[0] != first[1]).all()
    assert (first[:, 0] != first[:, 1]).all()
    reseeded = replace(tasks, seeds=tasks.seeds + 1)
    assert (collect(reseeded)["actions"] != first).all()


def test_discrete_actions_and_transitions_have_their_probabilities() -> None:
    tasks = episodes(2, 20_000, 1)
    chances = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    batch = collect(tasks, act=lambda observations: (observations @ chances).log())
    states = batch.inputs[..., 1].long()
    for state in (0, 1):
        chosen = batch["actions"][states == state].double().mean()
        assert abs(chosen - chances[state, 1]) < 0.01
        for action in (0, 1):
            here = (states[:, :, :-1] == state) & (batch["actions"][:, :, :-1] == action)
            assert abs(states[:, :, 1:][here].double().mean() - TO_ONE[state, action]) < 0.01
    assert not states[:, :, 0].any()
