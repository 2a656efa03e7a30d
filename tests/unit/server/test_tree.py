"""Sums of updates along a fixed tree."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import pytest
import torch

from distmeta.core.packed import Packed
from distmeta.core.tensors import digest
from distmeta.core.types import Update
from distmeta.runtime.wire import decode_packed, encode_params
from distmeta.server.tree import FAN_IN, Tree, sum_group

SHAPES = {"weight": (5, 7), "bias": (7,), "scale": ()}


def update_of(shard: int, *, names: tuple[str, ...] = tuple(SHAPES)) -> Update:
    """Magnitudes differ widely between shards, so that another order of additions gives other bits."""
    generator = torch.Generator().manual_seed(shard)
    size = 10.0 ** (shard % 5 - 2)
    grad = {name: size * torch.randn(SHAPES[name], generator=generator) for name in names}
    return Update(grad, 0.1 * (shard + 1), {"loss": 0.1 * size * (shard + 1)})


def merged(first: Update, second: Update) -> Update:
    names = [*first.metrics, *(name for name in second.metrics if name not in first.metrics)]
    return Update(
        {name: grad + second.grad[name] for name, grad in first.grad.items()},
        first.weight + second.weight,
        {name: first.metrics.get(name, 0.0) + second.metrics.get(name, 0.0) for name in names},
    )


def plain_sum(updates: list[Update]) -> Update:
    return functools.reduce(merged, updates)


def tree_sum(updates: list[Update]) -> Update:
    """Sum groups of FAN_IN updates, then groups of these sums, until one is left."""
    while len(updates) > 1:
        updates = [plain_sum(updates[start : start + FAN_IN]) for start in range(0, len(updates), FAN_IN)]
    return updates[0]


def assert_same(actual: Update, expected: Update) -> None:
    assert digest(actual.grad) == digest(expected.grad)
    assert (actual.weight, actual.metrics) == (expected.weight, expected.metrics)


@pytest.mark.parametrize("count", [1, 2, FAN_IN - 1, FAN_IN])
def test_up_to_fan_in_updates_are_summed_in_order(count: int) -> None:
    tree = Tree()
    for shard in range(count):
        tree.add(shard, update_of(shard))
    assert_same(tree.total(), plain_sum([update_of(shard) for shard in range(count)]))


@pytest.mark.parametrize("count", [17, 31, 32, 33, 100, 255, 256, 257, 300, 545])
@pytest.mark.parametrize("seed", [0, 1])
def test_any_order_of_arrival_gives_the_sum_along_the_tree(count: int, seed: int) -> None:
    tree = Tree()
    for shard in random.Random(seed).sample(range(count), count):
        tree.add(shard, update_of(shard))
    expected = tree_sum([update_of(shard) for shard in range(count)])
    assert_same(tree.total(), expected)
    assert_same(tree.total(), expected)  # total() can be called again


def test_the_tree_differs_from_the_plain_sum() -> None:
    """Otherwise the tests above would prove nothing."""
    updates = [update_of(shard) for shard in range(40)]
    assert digest(tree_sum(updates).grad) != digest(plain_sum(updates).grad)


@pytest.mark.parametrize("seed", range(10))
def test_groups_summed_by_workers_give_the_same_bits(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.choice([5, 16, 40, 64, 257, 300])
    pieces: list[list[int]] = []
    for first in range(0, count, FAN_IN):
        size = min(FAN_IN, count - first)
        together = rng.choice([0, size, rng.randint(0, size)])
        pieces += [list(range(first, first + together))] if together else []
        pieces += [[shard] for shard in range(first + together, first + size)]
    tree = Tree()
    for piece in rng.sample(pieces, len(pieces)):
        if len(piece) > 1:
            tree.add_group(piece[0], len(piece), sum_group(update_of(shard) for shard in piece))
        else:
            tree.add(piece[0], update_of(piece[0]))
    assert_same(tree.total(), tree_sum([update_of(shard) for shard in range(count)]))


@pytest.mark.parametrize("count", [256, 512, 300, 260, 1000])
def test_sums_of_groups_give_the_same_bits(count: int) -> None:
    def total_of(first: int, end: int) -> Update:
        return sum_group(update_of(shard) for shard in range(first, end))

    tree, rng = Tree(), random.Random(count)
    groups = [(first, min(first + FAN_IN, count)) for first in range(0, count, FAN_IN)]
    whole = groups if count % FAN_IN == 0 else groups[:-1]
    pieces = [whole[first : first + FAN_IN] for first in range(0, len(whole), FAN_IN)]
    pieces[1:2] = [[group] for piece in pieces[1:2] for group in piece]  # the second is added group by group
    pieces += [[group] for group in groups[len(whole) :]]
    for piece in rng.sample(pieces, len(pieces)):
        first, end = piece[0][0], piece[-1][1]
        tree.add_group(first, end - first, sum_group(total_of(*group) for group in piece))
    assert_same(tree.total(), tree_sum([update_of(shard) for shard in range(count)]))


@pytest.mark.parametrize(("first", "count"), [(1, 16), (0, 17), (16, 0), (8, 4), (16, 256), (256, 40), (256, 512)])
def test_invalid_groups_are_refused(first: int, count: int) -> None:
    with pytest.raises(ValueError, match="no group of 16"):
        Tree().add_group(first, count, update_of(0))


@pytest.mark.parametrize("seed", range(5))
def test_dropped_shards_do_not_change_the_groups_of_others(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.choice([3, 16, 20, 40, 300])
    dropped = set(rng.sample(range(count), rng.randint(1, count - 1)))
    tree = Tree()
    for shard in rng.sample(range(count), count):
        tree.add(shard, None if shard in dropped else update_of(shard))
    nothing = Update({name: torch.zeros(shape) for name, shape in SHAPES.items()}, 0.0, {"loss": 0.0})
    kept = [nothing if shard in dropped else update_of(shard) for shard in range(count)]
    total, expected = tree.total(), tree_sum(kept)
    for name in SHAPES:
        assert torch.equal(total.grad[name], expected.grad[name])
    assert (total.weight, total.metrics) == (expected.weight, expected.metrics)


def test_the_total_of_dropped_shards_is_empty() -> None:
    tree = Tree()
    for shard in range(20):
        tree.add(shard, None)
    assert tree.total() == Update({}, 0.0)


def test_a_tensor_is_summed_over_the_updates_that_have_it() -> None:
    tree = Tree()
    chosen = [("scale",), ("scale", "bias"), ("weight",), ("bias", "weight")] * 9
    for shard, names in reversed(list(enumerate(chosen))):
        tree.add(shard, update_of(shard, names=names))
    for name in SHAPES:
        expected: torch.Tensor | None = None
        for first in range(0, len(chosen), FAN_IN):
            group: torch.Tensor | None = None
            for shard in range(first, min(first + FAN_IN, len(chosen))):
                if name in chosen[shard]:
                    grad = update_of(shard, names=chosen[shard]).grad[name]
                    group = grad if group is None else group + grad
            if group is not None:
                expected = group if expected is None else expected + group
        assert expected is not None
        assert torch.equal(tree.total().grad[name], expected)


@pytest.mark.parametrize("count", [1, 2, 16, 40])
def test_updates_are_not_changed(count: int) -> None:
    tree = Tree()
    updates = [update_of(shard) for shard in range(count)]
    before = [digest(update.grad) for update in updates]
    for _ in range(3):  # each round reuses the buffers of the one before
        for shard, update in enumerate(updates):
            tree.add(shard, update)
        assert_same(tree.total(), tree_sum(updates))
        tree.clear()
    assert [digest(update.grad) for update in updates] == before


def test_clear_empties_the_tree() -> None:
    tree = Tree()
    tree.add(3, update_of(3))
    tree.add(0, update_of(0))
    tree.clear()
    tree.add(0, update_of(1))
    assert_same(tree.total(), update_of(1))


def packed(update: Update) -> Update:
    """The same update as it arrives from a worker."""
    return replace(update, grad=decode_packed(encode_params(update.grad)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [3, 16, 40, 300])
def test_packed_updates_are_summed_to_the_same_bits_also_among_others(seed: int, count: int) -> None:
    rng = random.Random(seed)
    updates = [update_of(shard) for shard in range(count)]
    expected = tree_sum(updates)
    tree = Tree()
    for shard in rng.sample(range(count), count):
        tree.add(shard, packed(updates[shard]) if rng.random() < (1.0 if seed < 2 else 0.7) else updates[shard])
    assert isinstance(tree.total().grad, Packed) or seed >= 2
    assert_same(tree.total(), expected)
    tree.clear()
    for shard in range(count):
        tree.add(shard, packed(updates[shard]))
    assert_same(tree.total(), expected)


def test_a_packed_update_that_lacks_a_parameter_is_added_to_what_it_has() -> None:
    whole, part = update_of(0), update_of(1, names=("weight", "scale"))
    expected = {name: grad + part.grad[name] if name in part.grad else grad for name, grad in whole.grad.items()}
    for first, second in ((packed(whole), packed(part)), (packed(part), packed(whole)), (packed(part), whole)):
        assert digest(sum_group([first, second]).grad) == digest(expected)
        tree = Tree()
        tree.add(1, second)
        tree.add(0, first)
        assert digest(tree.total().grad) == digest(expected)
        tree.clear()
