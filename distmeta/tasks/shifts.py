"""What a shift changes: classes, images, or labels.

Shapes: N examples, C classes of the tasks, K classes of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from distmeta.config.shifts import CorruptionShift, LabelShift, SpuriousShift, SubclassShift
from distmeta.core import seeding
from distmeta.core.errors import UserError, nearest
from distmeta.data.corruptions import corrupt

Images = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
NO_CLASS = -1
_MARK_ROWS = 3


class NoShift:
    """Everything stays.

    Attributes:
        classes: Names of the C classes.
        num_classes: C.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.classes = tuple(names)
        self.num_classes = len(self.classes)

    def labels_of_classes(self, *, shifted: bool) -> Ids:
        """Label of each class of the store, [K]; `NO_CLASS` where it takes no part."""
        return np.arange(self.num_classes)

    def images(self, images: Images, labels: Ids, rows: Ids, *, shifted: bool) -> Images:
        """Change images uint8 [N, C, H, W] with labels [N], which are `rows` [N] of the store."""
        return images

    def labels(self, labels: Ids, *, shifted: bool) -> Ids:
        """Change labels, of any shape."""
        return labels


class _Corruption(NoShift):
    def __init__(self, config: CorruptionShift, names: Sequence[str]) -> None:
        super().__init__(names)
        self._config = config

    @override
    def images(self, images: Images, labels: Ids, rows: Ids, *, shifted: bool) -> Images:
        if not shifted:
            return images
        # The draws are those of the image alone: the corrupted store is one data set, whatever tasks draw of it.
        parts = zip(
            self._config.names, *(np.array_split(each, len(self._config.names)) for each in (images, rows)), strict=True
        )
        return np.concatenate(
            [
                corrupt(part, name, self._config.severity, seeding.bits(of, f"corruption {name}", 1)[:, 0])
                for name, part, of in parts
            ]
        )


class _Labels(NoShift):
    def __init__(self, config: LabelShift, names: Sequence[str]) -> None:
        super().__init__(names)

    @override
    def labels(self, labels: Ids, *, shifted: bool) -> Ids:
        return self.num_classes - 1 - labels if shifted else labels


class _Spurious(NoShift):
    def __init__(self, config: SpuriousShift, names: Sequence[str]) -> None:
        super().__init__(names)
        self._correlation = config.correlation

    @override
    def images(self, images: Images, labels: Ids, rows: Ids, *, shifted: bool) -> Images:
        agrees, other = seeding.uniform(rows, "spurious mark", 2).T
        drawn = (other * self.num_classes).astype(np.int64)
        marks = drawn if shifted else np.where(agrees < self._correlation, labels, drawn)
        width = images.shape[-1]
        columns = np.arange(width) * self.num_classes // width
        marked = images.copy()
        top = marked[..., :_MARK_ROWS, :]
        top[...] = np.where((columns == marks[:, None])[:, None, None, :], 255, top)
        return marked


class _Subclass(NoShift):
    def __init__(self, config: SubclassShift, names: Sequence[str]) -> None:
        super().__init__(tuple(config.classes))
        self._labels = [np.full(len(names), NO_CLASS, dtype=np.int64) for _ in range(2)]
        for label, parts in enumerate(config.classes.values()):
            for labels, part in zip(self._labels, parts, strict=True):
                for member in part:
                    if member not in names:
                        what = f"the store has no class '{member}'"
                        raise UserError(what, where="tasks.shift.classes", allowed=nearest(member, names))
                    labels[list(names).index(member)] = label

    @override
    def labels_of_classes(self, *, shifted: bool) -> Ids:
        return self._labels[shifted]


SHIFTS: dict[str, Callable[[Any, Sequence[str]], NoShift]] = {
    "corruption": _Corruption,
    "labels": _Labels,
    "spurious": _Spurious,
    "subclass": _Subclass,
}
