"""Similarity of representations, compared with its definitions in NumPy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from distmeta.analysis.layers import OUTPUTS, ShardSums, as_samples, pack, sums_of_shard
from distmeta.analysis.similarity import LayerSums, Similarity, similarity, sums_of
from distmeta.config import GradientConfig, Phase
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models.base import Backbone

from .problems import classification, conv4, mlp, perturbed

Array = npt.NDArray[np.float64]
EXACT = 1e-10


def related(samples: int = 60, tasks: int = 1, seed: int = 0) -> list[list[Array]]:
    """Views of 5 neurons for each task: the second one is a noisy linear map of the first."""
    rng = np.random.default_rng(seed)
    mixing, found = rng.normal(size=(5, 5)), []
    for _ in range(tasks):
        x = rng.normal(size=(samples, 5)) * [3, 2, 1, 1, 0.5] + rng.normal(size=5)
        found.append([x, np.maximum(x @ mixing, 0) + rng.normal(size=(samples, 5))])
    return found


def compared(tasks: list[list[Array]]) -> Similarity:
    parts = [sums_of([torch.from_numpy(view) for view in views]) for views in tasks]
    return similarity(added(parts), 0, 1)


def added(parts: list[LayerSums]) -> LayerSums:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def gram_hsic(x: Array, y: Array) -> float:
    """HSIC_1 by Gram matrices (Song et al. 2012, equation 5)."""
    n, k, m = len(x), x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    rest = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return float((np.trace(k @ m) + rest) / (n * (n - 3)))


def test_unbiased_cka_is_that_of_gram_matrices_with_tasks_as_mini_batches() -> None:
    tasks = related(20, tasks=3)
    hsic = {(i, j): np.mean([gram_hsic(views[i], views[j]) for views in tasks]) for i in range(2) for j in range(2)}
    assert compared(tasks).cka == pytest.approx(hsic[0, 1] / math.sqrt(hsic[0, 0] * hsic[1, 1]), rel=EXACT)


def test_biased_cka_is_that_of_centred_gram_matrices() -> None:
    tasks = related(20, tasks=3)
    x, y = (np.concatenate([views[i] for views in tasks]) for i in range(2))
    centring = np.eye(len(x)) - 1 / len(x)
    k, m = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    assert compared(tasks).cka_biased == pytest.approx(
        np.sum(k * m) / (np.linalg.norm(k) * np.linalg.norm(m)), rel=EXACT
    )


def test_canonical_correlations_are_those_of_qr_and_svd() -> None:
    [[x, y]] = related()
    x, y = x - x.mean(0), y - y.mean(0)
    (basis_x, _), (basis_y, _) = np.linalg.qr(x), np.linalg.qr(y)
    left, correlations, _ = np.linalg.svd(basis_x.T @ basis_y)
    weights = np.abs((basis_x @ left).T @ x).sum(1)
    found = compared([[x, y]])
    assert found.cca == pytest.approx(correlations.mean(), rel=EXACT)
    assert found.pwcca == pytest.approx(weights @ correlations / weights.sum(), rel=EXACT)
    assert 0.1 < found.cca < found.pwcca < 0.95


def test_cka_ignores_rotations_and_scaling_and_cca_every_invertible_map() -> None:
    [[x, y]] = related()
    rng = np.random.default_rng(1)
    rotation, skewed = np.linalg.qr(rng.normal(size=(5, 5)))[0], rng.normal(size=(5, 5)) + np.eye(5)
    plain, rotated, mapped = compared([[x, y]]), compared([[x, 7 * y @ rotation + 1]]), compared([[x, y @ skewed - 2]])
    assert rotated.cka == pytest.approx(plain.cka, rel=EXACT)
    assert rotated.cka_biased == pytest.approx(plain.cka_biased, rel=EXACT)
    assert abs(mapped.cka - plain.cka) > 0.01
    for found in (rotated, mapped):
        assert found.cca == pytest.approx(plain.cca, rel=EXACT)
        assert found.pwcca == pytest.approx(plain.pwcca, rel=EXACT)


def test_unbiased_cka_of_independent_features_is_near_zero_where_the_biased_one_is_not() -> None:
    rng = np.random.default_rng(2)
    found = compared([[rng.normal(size=(30, 50)) for _ in range(2)] for _ in range(1)])
    many = compared([[rng.normal(size=(30, 50)) for _ in range(2)] for _ in range(20)])
    assert found.cka_biased > 0.5
    assert abs(found.cka) < 0.1
    assert abs(many.cka) < 0.02
    assert math.isnan(found.cca)  # of 30 samples of 50 neurons, every correlation would be 1


def test_sums_of_shards_are_those_of_all_samples() -> None:
    tasks = related(20, tasks=4)
    parts = [sums_of([torch.from_numpy(view) for view in views]) for views in tasks]
    whole = sums_of([torch.from_numpy(np.concatenate([views[i] for views in tasks])) for i in range(2)])
    halves = added(parts[:2]) + added(parts[2:])
    assert (halves.tasks, halves.samples) == (4, whole.samples)
    for found, expected in ((halves.total, whole.total), (halves.products, whole.products)):
        np.testing.assert_allclose(found, expected, rtol=EXACT)
    pooled = similarity(whole, 0, 1)
    assert similarity(halves, 0, 1).cca == pytest.approx(pooled.cca, rel=EXACT)
    assert similarity(halves, 0, 1).cka_biased == pytest.approx(pooled.cka_biased, rel=EXACT)


def test_a_layer_without_variance_has_no_similarity() -> None:
    [[x, _]] = related()
    found = compared([[x, np.ones_like(x)]])
    assert all(math.isnan(value) for value in (found.cka, found.cka_biased, found.cca, found.pwcca))


def test_channels_are_neurons_and_positions_samples() -> None:
    maps = torch.rand(2, 3, 4, 5)
    assert torch.equal(as_samples(maps)[4 * 5 + 7], maps[1, :, 1, 2])
    assert as_samples(maps).shape == (40, 3)
    assert as_samples(torch.rand(2, 3)).shape == (2, 3)
    assert as_samples(torch.rand(2, 7, 3)).shape == (14, 3)


def analysed(learner: Learner, meta: Params, episodes: Episode, others: Params | None = None) -> ShardSums:
    return sums_of_shard(learner, meta, others or {}, episodes, "float32")


def adapting(backbone: Backbone, *groups: str) -> Learner:
    return GradientLearner(GradientConfig(phases=(Phase(groups=groups, steps=2, lr=0.5),)), backbone, "cross_entropy")


@pytest.mark.parametrize("backbone", [mlp(), conv4()], ids=["mlp", "conv4"])
def test_adapting_the_head_alone_leaves_the_body_the_same_exactly(backbone: Backbone) -> None:
    shape = (6,) if backbone.is_row_wise else (1, 16, 16)
    episodes, meta = classification(*shape, queries=4, tasks=3), perturbed(backbone.init(0))
    head, everything = (analysed(adapting(backbone, group), meta, episodes).layers for group in ("head", "all"))
    assert list(head) == [*backbone.blocks(), OUTPUTS]
    for name, sums in head.items():
        found, moved = similarity(sums, 0, 1), similarity(everything[name], 0, 1)
        assert (found.cka == found.cka_biased == 1.0) == (name != OUTPUTS)
        assert moved.cka < 1 - 1e-6


def test_outputs_before_and_after_adaptation_are_those_of_the_hand_written_loop() -> None:
    """The body's first layer after two steps of plain gradient descent on all parameters."""
    backbone, episodes = mlp(), classification(6, queries=4, tasks=1)
    meta = perturbed(backbone.init(0))
    task = episodes.map(lambda tensor: tensor[0])
    fast = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    for _ in range(2):
        x = task.support.inputs
        for block in backbone.blocks():
            x = torch.relu(x @ fast[f"{block}.weight"].T + fast[f"{block}.bias"])
        loss = torch.nn.functional.cross_entropy(x @ fast["head.weight"].T + fast["head.bias"], task.support["targets"])
        grads = torch.autograd.grad(loss, list(fast.values()))
        fast = {
            name: (tensor - 0.5 * grad).detach().requires_grad_()
            for (name, tensor), grad in zip(fast.items(), grads, strict=True)
        }
    layers = [
        torch.relu(task.query.inputs @ params["block1.weight"].T + params["block1.bias"]).detach()
        for params in (meta, fast)
    ]
    found, expected = analysed(adapting(backbone, "all"), meta, episodes).layers["block1"], sums_of(layers)
    np.testing.assert_allclose(found.products, expected.products, rtol=EXACT)
    np.testing.assert_allclose(found.hsic, expected.hsic, rtol=1e-8)


def test_further_views_are_compared_without_adaptation() -> None:
    backbone, episodes = mlp(), classification(6, queries=4, tasks=2)
    meta, other = backbone.init(0), backbone.init(1)
    body = {name: other[name] for name in backbone.groups()["body"]}
    with_head = analysed(adapting(backbone, "all"), meta, episodes, pack([other, meta]))
    without = analysed(adapting(backbone, "all"), meta, episodes, pack([body]))
    assert list(with_head.layers) == [*backbone.blocks(), OUTPUTS]
    assert list(without.layers) == list(backbone.blocks())
    for name, sums in without.layers.items():
        assert similarity(sums, 0, 1) == similarity(with_head.layers[name], 0, 1)
        assert similarity(with_head.layers[name], 0, 2).cka == 1.0
    inputs = episodes.query.inputs
    layers = [torch.relu(inputs @ each["block1.weight"].T + each["block1.bias"]) for each in (meta, other)]
    expected = added([sums_of([layer[task] for layer in layers]) for task in range(2)])
    np.testing.assert_allclose(without.layers["block1"].products, expected.products, rtol=EXACT)
