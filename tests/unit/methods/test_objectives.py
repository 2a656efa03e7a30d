from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distmeta.core.errors import UserError
from distmeta.core.types import Batch
from distmeta.methods.learners.inner.problem import example_losses
from distmeta.methods.objectives import Forward, find_objective

LOGITS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.0]], dtype=torch.float64)


def outputs(inputs: Tensor) -> Tensor:
    return inputs


def test_cross_entropy_and_its_accuracy() -> None:
    loss, metrics = find_objective("cross_entropy", "field")(outputs, Batch(LOGITS, torch.tensor([1, 0, 1])))
    p = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    assert loss.item() == pytest.approx(-(p[0, 1].log() + p[1, 0].log() + p[2, 1].log()).item() / 3)
    assert metrics["accuracy"].item() == pytest.approx(2 / 3)


def test_mean_squared_error() -> None:
    loss, metrics = find_objective("mse", "field")(outputs, Batch(LOGITS, torch.zeros_like(LOGITS)))
    assert loss.item() == pytest.approx((1 + 4 + 1 + 0.25) / 6)
    assert metrics == {}


def test_entropy_needs_no_targets() -> None:
    loss, _ = find_objective("entropy", "field")(outputs, Batch(torch.zeros(4, 8)))
    assert loss.item() == pytest.approx(torch.tensor(8.0).log().item())


def test_the_gaussian_likelihood_of_means_and_deviations() -> None:
    outputs_and_deviations = torch.tensor([[0.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    batch = Batch(outputs_and_deviations, torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    loss, metrics = find_objective("gaussian", "field")(outputs, batch)
    assert loss.item() == pytest.approx((0.5 + torch.tensor(2.0).log().item()) / 2 + 0.5 * math.log(2 * math.pi))
    assert metrics["log_likelihood"].item() == -loss.item()
    assert metrics["mse"].item() == 0.5


def test_a_gaussian_likelihood_needs_deviations() -> None:
    with pytest.raises(UserError, match=r"^objective 'gaussian': it needs mean and .*, 4 outputs, not 2; allowed"):
        find_objective("gaussian", "field")(outputs, Batch(LOGITS, LOGITS))


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown objective 'msee'.*mse"):
        find_objective("msee", "query term 0")


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "entropy"])
def test_losses_of_single_examples_have_the_objective_as_their_mean(name: str) -> None:
    targets = torch.tensor([1, 0, 1]) if name == "cross_entropy" else LOGITS.flip(1)
    objective, batch = find_objective(name, "field"), Batch(torch.zeros(3, 5), targets)
    losses = example_losses(objective, LOGITS, batch)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses.mean(), objective(lambda inputs: LOGITS, batch)[0])


def test_losses_of_single_examples_are_refused_where_the_network_is_called_otherwise() -> None:
    def rotated(forward: Forward, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return forward(batch.inputs.flip(1)).sum(), {}

    with pytest.raises(UserError, match="applies the network to other inputs"):
        example_losses(rotated, LOGITS, Batch(torch.zeros(3, 5)))
