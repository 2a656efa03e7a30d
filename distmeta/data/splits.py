"""Class splits: the classes for meta-training, meta-validation and meta-testing.

- `omniglot`: Finn, Abbeel & Levine 2017 (arXiv:1703.03400): 1,200 random characters for training, the other 423 for
  testing; 100 of the 1,200 are used for validation. The task source adds rotations as further classes after the split,
  so that a character and its rotations are always in the same split.
- `omniglot_alphabets`: the drawings' own division (Lake et al. 2015), as in continual learning (Javed & White 2019,
  arXiv:1905.12588): characters of the 30 background alphabets for training, 100 of them for validation, those of the 20
  evaluation alphabets for testing.
- `cifar_fs` (Bertinetto et al. 2019, arXiv:1805.08136) and `fc100` (Oreshkin et al. 2018, arXiv:1805.10123): published
  lists of class names.
- `fractions`: a seeded random split of any set of classes.
- `given`: lists of classes, or the splits of the rows, as the user gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distmeta.core.errors import UserError
from distmeta.core.seeding import choice
from distmeta.data.manifest import SplitSets

SPLITS = ("train", "val", "test")
OMNIGLOT_CLASSES = 1623
DEFAULT_FRACTIONS = (0.64, 0.16, 0.2)
OTHER_NAMES = {"validation": "val", "valid": "val", "dev": "val"}
"""Names of splits in data of other libraries."""
OUTSIDE_CLASS = "oos"
"""Name of the class of out-of-scope texts, which is in no split."""


def omniglot(seed: int = 0) -> SplitSets:
    """Random split of the 1,623 characters into 1,100 train, 100 val and 423 test classes."""
    return {"omniglot": _partition(OMNIGLOT_CLASSES, (1100, 100, 423), "omniglot", seed)}


def by_alphabets(num_background: int, num_classes: int, seed: int = 0) -> SplitSets:
    """The first `num_background` classes are for training, but 100 of them (at most a ninth) for val; others: test."""
    num_val = min(100, num_background // 9)
    parts = _partition(num_background, (num_background - num_val, num_val, 0), "omniglot_alphabets", seed)
    return {"omniglot_alphabets": {**parts, "test": list(range(num_background, num_classes))}}


def fractions(num_classes: int, parts: Sequence[float] = DEFAULT_FRACTIONS, seed: int = 0) -> SplitSets:
    """Split classes at random in the given proportions.

    Args:
        num_classes: Number of classes to split.
        parts: Shares of train, val and test, which add up to 1. Every share above 0 gets at least one class if there
            are enough classes.
        seed: Seed of the permutation.

    Raises:
        UserError: Not three shares that add up to 1.
    """
    if len(parts) != 3 or not min(parts) >= 0 or not abs(sum(parts) - 1) <= 1e-6:  # also refuses NaN
        raise UserError(
            f"fractions {list(parts)}", where="--fractions", allowed="three shares that add up to 1: train,val,test"
        )
    num_val = min(int(parts[1] * num_classes + 0.5), num_classes)
    num_test = min(int(parts[2] * num_classes + 0.5), num_classes - num_val)
    counts = [num_classes - num_val - num_test, num_val, num_test]
    for split in range(3):
        largest = max(range(3), key=lambda index: counts[index])
        if parts[split] > 0 and counts[split] < 1 and counts[largest] > 1:
            counts[split], counts[largest] = counts[split] + 1, counts[largest] - 1
    return {"fractions": _partition(num_classes, counts, "fractions", seed)}


def by_name(set_name: str, lists: Mapping[str, Sequence[str]], class_names: Sequence[str], where: str) -> SplitSets:
    """Turn lists of class names into a split set.

    Args:
        set_name: Name of the split set.
        lists: {train/val/test: class names}.
        class_names: All classes, in the order of the store.
        where: The file of the lists, for error messages.

    Raises:
        UserError: A split is missing, a listed class does not exist, or it is listed twice.
    """
    index, listed = {name: position for position, name in enumerate(class_names)}, set[str]()
    for split in SPLITS:
        if split not in lists:
            raise UserError(f"split set '{set_name}' has no '{split}' list", where=where)
        for name in lists[split]:
            if name not in index:
                raise UserError(f"split '{set_name}.{split}' names an unknown class '{name}'", where=where)
            if name in listed:
                raise UserError(f"split set '{set_name}' lists class '{name}' twice", where=where)
            listed.add(name)
    return {set_name: {split: sorted(index[name] for name in lists[split]) for split in SPLITS}}


def given(lists: Mapping[str, Sequence[str]], class_names: Sequence[str], where: str) -> SplitSets:
    """The split set `given` of lists of class names; a split that is not listed is empty.

    Raises:
        UserError: No such split, a listed class does not exist, or it is listed twice.
    """
    named = {OTHER_NAMES.get(split, split): names for split, names in lists.items()}
    for split in lists:
        if OTHER_NAMES.get(split, split) not in SPLITS:
            raise UserError(f"unknown split '{split}'", where=where, allowed=", ".join(SPLITS))
    return by_name("given", {split: named.get(split, ()) for split in SPLITS}, class_names, where)


def by_rows(
    classes: Sequence[int], class_names: Sequence[str], names: Sequence[str], where: str, noun: str = "class"
) -> SplitSets:
    """The split set `given` of a table that names the split of each row.

    Args:
        classes: Class of each row.
        class_names: All classes, in the order of the store.
        names: Split of each row.
        where: The table and the column, for error messages.
        noun: `class` or `group`.

    Raises:
        UserError: No such split, or rows of one class in two splits.
    """
    chosen: dict[int, str] = {}
    for row, (index, name) in enumerate(zip(classes, names, strict=True)):
        split = OTHER_NAMES.get(name, name)
        if split not in SPLITS:
            raise UserError(f"unknown split '{name}' in row {row}", where=where, allowed=", ".join(SPLITS))
        if chosen.setdefault(index, split) != split:
            raise UserError(
                f"{noun} '{class_names[index]}' is in split '{chosen[index]}' and, in row {row}, in '{split}'",
                where=where,
                allowed=f"one split for each {noun}, or no split column: a random split",
            )
    return {"given": {split: sorted(index for index, name in chosen.items() if name == split) for split in SPLITS}}


def _partition(num_classes: int, counts: Sequence[int], stream: str, seed: int) -> dict[str, list[int]]:
    permutation = choice([seed], f"class-split-{stream}", num_classes, num_classes)[0]
    result, start = {}, 0
    for split, count in zip(SPLITS, counts, strict=True):
        result[split] = sorted(int(index) for index in permutation[start : start + count])
        start += count
    return result
