"""Optimisation problems as tasks: what learned optimizers are trained on."""

from __future__ import annotations

from typing import ClassVar, Literal

from distmeta.config.base import Frozen
from distmeta.config.bounds import Examples, Text


class QuadraticTasks(Frozen):
    """Random quadratics, `|W x - y|^2 / rows` with standard normal W and y (Andrychowicz et al. 2016), as regression.

    A network without hidden layers (`mlp`, `hidden: []`) has x as its weights, and a bias besides. Support and query
    are the same rows, so that the score of queries is the function that inner steps minimise.

    Attributes:
        size: Numbers in x.
        rows: Rows of W.
    """

    source: Literal["quadratics"] = "quadratics"
    size: Examples = 10
    rows: Examples = 10

    has_classes: ClassVar[bool] = False
    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Rows of both roles."""
        return 2 * self.rows


class DatasetTasks(Frozen):
    """All classes of a store of images as one problem: tasks differ in the examples that they draw, and in their order.

    The examples of each class are divided among the splits by their place in the store: 64% train, 16% val, 20% test.
    A task draws its own with replacement.

    Attributes:
        store: Name of a store (`distmeta data list`) or path of its folder.
        examples: Support examples, in random order: what inner mini-batches are cut from.
        queries: Query examples in training.
        eval_queries: Query examples at evaluation.
    """

    source: Literal["dataset"] = "dataset"
    store: Text = "fashion_mnist_8x8"
    examples: Examples = 2000
    queries: Examples = 200
    eval_queries: Examples = 1000

    has_classes: ClassVar[bool] = True
    has_images: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Support and query examples of a training or an evaluation task, whichever has more."""
        return self.examples + max(self.queries, self.eval_queries)
