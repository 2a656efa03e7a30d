"""Heads that learn from streams, compared with torch's own layers and optimizers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distmeta.analysis.stream import OPTIMIZERS, Examples, oracle, stream

CLASSES, SHOTS, QUERIES, FEATURES = 7, 6, 4, 9
TORCH = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def examples(noise: float = 0.5, seed: int = 0) -> Examples:
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, 1, FEATURES, generator=rng, dtype=torch.float64)
    train, test = (
        means + noise * torch.randn(CLASSES, count, FEATURES, generator=rng, dtype=torch.float64)
        for count in (SHOTS, QUERIES)
    )
    return Examples(train, test)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stream_is_learned_as_by_torch(name: str) -> None:
    given, rate = examples(), 0.05
    layer = nn.Linear(FEATURES, CLASSES, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer, expected = TORCH[name](layer.parameters(), lr=rate), []
    for label in range(CLASSES):
        for row in given.train[label]:
            optimizer.zero_grad()
            F.cross_entropy(layer(row)[None], torch.tensor([label])).backward()
            optimizer.step()
        seen, labels = label + 1, torch.arange(label + 1)[:, None]
        right = [(layer(each[:seen]).argmax(-1) == labels).double().mean() for each in (given.train, given.test)]
        expected.append((seen, *map(float, right)))
    points = stream(given, name, rate, marks=range(1, CLASSES))
    assert [(point.classes, point.train, point.test) for point in points] == expected
    assert expected[-1][1] < 1, "something is forgotten"
    (end,) = stream(given, name, rate)
    assert end == points[-1]
    head = OPTIMIZERS[name](CLASSES, FEATURES, rate, given.train)
    for label in range(CLASSES):
        for row in given.train[label]:
            head.step(torch.cat((row, row.new_ones(1))), label)
    torch.testing.assert_close(head.weight, torch.cat((layer.weight, layer.bias[:, None]), 1).detach())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_oracle_forgets_less(name: str) -> None:
    given, rate = examples(), 0.03
    end, (last,) = oracle(given, name, rate, 5, seed=0), stream(given, name, rate)
    assert end.classes == last.classes == CLASSES
    assert end.train > last.train
    assert end.test > last.test
    assert oracle(given, name, rate, 5, seed=0) == end


def test_held_out_examples_are_the_last_third_of_the_training_examples() -> None:
    given = examples()
    held = given.held_out()
    assert torch.equal(held.train, given.train[:, :4])
    assert torch.equal(held.test, given.train[:, 4:])
    two = Examples(given.train[:, :2], given.test).held_out()
    assert (two.train.shape[1], two.test.shape[1]) == (1, 1)
