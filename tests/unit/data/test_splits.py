"""Class splits are disjoint, complete and seeded."""

from __future__ import annotations

from itertools import chain

import pytest

from distmeta.core.errors import UserError
from distmeta.data import splits


def test_omniglot_has_the_sizes_of_the_maml_paper() -> None:
    split_set = splits.omniglot()["omniglot"]
    assert {split: len(classes) for split, classes in split_set.items()} == {"train": 1100, "val": 100, "test": 423}
    assert sorted(chain.from_iterable(split_set.values())) == list(range(1623))
    assert splits.omniglot() == splits.omniglot()
    assert splits.omniglot(seed=1) != splits.omniglot(seed=0)


def test_alphabets_keep_their_zips() -> None:
    split_set = splits.by_alphabets(964, 1623)["omniglot_alphabets"]
    assert {split: len(classes) for split, classes in split_set.items()} == {"train": 864, "val": 100, "test": 659}
    assert sorted(split_set["train"] + split_set["val"]) == list(range(964))
    assert split_set["test"] == list(range(964, 1623))
    assert splits.by_alphabets(2, 3)["omniglot_alphabets"] == {"train": [0, 1], "val": [], "test": [2]}


@pytest.mark.parametrize("num_classes", [1, 2, 3, 4, 10, 77, 100])
@pytest.mark.parametrize("parts", [(0.64, 0.16, 0.2), (0.98, 0.01, 0.01), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)])
def test_fractions_are_disjoint_and_complete(num_classes: int, parts: tuple[float, float, float]) -> None:
    split_set = splits.fractions(num_classes, parts, seed=3)["fractions"]
    assert list(split_set) == ["train", "val", "test"]
    assert sorted(chain.from_iterable(split_set.values())) == list(range(num_classes))
    num_nonzero = sum(part > 0 for part in parts)
    filled = sum(len(split_set[split]) > 0 for split, part in zip(split_set, parts, strict=True) if part > 0)
    assert filled == min(num_nonzero, num_classes)


def test_fractions_are_close_to_the_shares() -> None:
    split_set = splits.fractions(100)["fractions"]
    assert [len(classes) for classes in split_set.values()] == [64, 16, 20]


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.5, 0.6, 0.1), (1.2, -0.1, -0.1)])
def test_bad_fractions_are_refused(parts: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="three shares that add up to 1"):
        splits.fractions(10, parts)


def test_lists_of_names_become_indices() -> None:
    lists = {"train": ["c", "a"], "val": ["b"], "test": []}
    assert splits.by_name("s", lists, ["a", "b", "c"], "f.json") == {"s": {"train": [0, 2], "val": [1], "test": []}}
    with pytest.raises(UserError, match=r"f.json: split 's.val' names an unknown class 'z'"):
        splits.by_name("s", lists | {"val": ["z"]}, ["a", "b", "c"], "f.json")
    with pytest.raises(UserError, match=r"f.json: split set 's' has no 'val' list"):
        splits.by_name("s", {"train": ["a"]}, ["a", "b", "c"], "f.json")
