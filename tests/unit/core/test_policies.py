from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from distmeta.core import policies

RNG = torch.Generator().manual_seed(0)
OLD, NEW = (torch.randn(50, 6, generator=RNG, dtype=torch.float64) for _ in range(2))


def normals(outputs: torch.Tensor) -> Independent:
    mean, log_std = outputs.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def test_probabilities_of_continuous_actions_are_those_of_normals() -> None:
    actions = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(policies.log_prob(OLD, actions), normals(OLD).log_prob(actions))


def test_probabilities_of_discrete_actions_are_those_of_categories() -> None:
    actions = torch.arange(50) % 6
    torch.testing.assert_close(policies.log_prob(OLD, actions), Categorical(logits=OLD).log_prob(actions))


@pytest.mark.parametrize("discrete", [False, True])
def test_divergences_are_those_of_torch(discrete: bool) -> None:
    make = (lambda outputs: Categorical(logits=outputs)) if discrete else normals
    expected = kl_divergence(make(OLD), make(NEW))
    torch.testing.assert_close(policies.kl_divergence(OLD, NEW, discrete=discrete), expected)
    same = policies.kl_divergence(OLD, OLD, discrete=discrete)
    torch.testing.assert_close(same, torch.zeros_like(same))


def test_samples_of_normals_are_mean_and_deviations() -> None:
    draws = torch.tensor([[1.0, -2.0]])
    actions = policies.sample(torch.tensor([[0.5, 0.0, 0.0, math.log(3)]]), draws)
    torch.testing.assert_close(actions, torch.tensor([[1.5, -6.0]]))


def test_samples_of_categories_have_their_probabilities() -> None:
    outputs = torch.log(torch.tensor([0.2, 0.5, 0.3])).expand(1000, 3)
    draws = (torch.arange(1000) + 0.5) / 1000
    assert policies.sample(outputs, draws).bincount().tolist() == [200, 500, 300]


def test_the_largest_draw_gives_a_category() -> None:
    largest = torch.tensor([math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert policies.sample(torch.zeros(1, 7, dtype=torch.float64), largest).item() == 6
