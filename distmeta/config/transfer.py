"""Transfer between two data sets as tasks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import Examples, Text
from distmeta.config.texts import BUCKETS, Buckets, Template

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class _FewLabels(Frozen):
    """Few labelled examples of one data set, of which tasks are parts."""

    examples: Examples = 600
    support: Examples | None = None
    queries: Examples | None = None
    eval_queries: Examples = 10_000
    folds: int = Field(5, ge=2, le=1000)
    test_share: Share | None = None

    has_classes: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def divided(self) -> tuple[int, int]:
        """Support and query examples of a training task."""
        support = self.examples // 2 if self.support is None else self.support
        return support, self.examples - support if self.queries is None else self.queries

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        support, queries = self.divided
        if min(support, queries) < 1 or support + queries > self.examples:
            raise ValueError(
                f"support {support} and queries {queries} are not parts of {self.examples} examples; allowed: one or "
                "more each, that many in all"
            )
        if self.examples < self.folds:
            raise ValueError(f"folds {self.folds} of {self.examples} examples; allowed: at most as many as examples")
        return self


class TransferTasks(_FewLabels):
    """Transfer from the images of one store, the source, to few labelled images of another one, the target.

    There is one target problem: all classes of a store. Which of its training images have labels is drawn by the run's
    seed, as many of each class as of others. A training task divides these at random into support and query, anew each
    time, and has a batch of the source (role `source`, labels among all of its classes). A `val` task holds out a part
    of them, one after another (k-fold cross-validation, if there are as many tasks as folds). A `test` task has all of
    them as its support, and the test images of the target as its queries.

    If source and target are one store, the labelled images of the target are none of the source's.

    Attributes:
        store: Name of the source's store (`distmeta data list`) or path of its folder.
        target: The same of the target.
        examples: Labelled images of the target.
        support: How many of them are the support of a training task; None: half.
        queries: How many are its queries; None: all others.
        source_batch: Images of the source in a training task.
        eval_queries: Queries of a `test` task, drawn at random if there are more.
        folds: Parts of the labelled images of which `val` tasks hold one out.
        test_share: Share of the images of each class, the last in the store, that are for tests; None takes the data's
            own division.
        size: Height and width in pixels that images are scaled to; None takes those of the source's.
        signature: Standard deviation s: the lower half of a source image of class c of C is replaced by noise from
            N(c / C, s^2), drawn once for each image, so that it tells the class (Liu et al. 2020). None: as they are.

    Evaluation tasks have a role `masked` besides: the queries with the lower half of the images set to 0.
    """

    source: Literal["transfer"] = "transfer"
    store: Text = "fashion_mnist"
    target: Text = "usps"
    source_batch: Examples = 64
    size: int | None = Field(None, ge=1, le=4096)
    signature: NonNegativeFloat | None = None

    has_images: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True

    @property
    def max_examples(self) -> int:
        """Images of a training or an evaluation task, whichever has more."""
        return max(sum(self.divided) + self.source_batch, self.examples + 2 * self.eval_queries)


class TextTransferTasks(_FewLabels):
    """Few labelled texts of one store, for a network that was pre-trained elsewhere.

    There is one problem: all classes of the store. Which of its training texts have labels is drawn by the run's seed,
    as many of each class as of others. A training task divides these at random into support and query, anew each time.
    A `val` task holds out a part of them, one after another (k-fold cross-validation, if there are as many tasks as
    folds). A `test` task has all of them as its support, and the test texts as its queries.

    Attributes:
        store: Name of the store (`distmeta data list`) or path of its folder.
        examples: Labelled texts.
        support: How many of them are the support of a training task; None: half.
        queries: How many are its queries; None: all others.
        eval_queries: Queries of a `test` task, drawn at random if there are more.
        folds: Parts of the labelled texts of which `val` tasks hold one out.
        test_share: Share of the texts of each class, the last in the store, that are for tests; None takes the data's
            own division.
        tokenizer: As in `TextTasks`; that of `words` is made of the training texts.
        buckets: As in `TextTasks`.
        template: As in `TextTasks`.
    """

    source: Literal["text_transfer"] = "text_transfer"
    store: Text = "banking77"
    examples: Examples = 770
    eval_queries: Examples = 2000
    test_share: Share | None = 0.3
    tokenizer: Text = "minilm"
    buckets: Buckets = BUCKETS
    template: Template = "{}"

    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = True
    has_numbers: ClassVar[bool] = False
    rotations: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Texts of a training or an evaluation task, whichever has more."""
        return max(sum(self.divided), self.examples + self.eval_queries)
