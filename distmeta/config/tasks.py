"""Sources of tasks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from distmeta.config.base import Frozen
from distmeta.config.bounds import Examples, PositiveCount, Range, Text, Ways
from distmeta.config.interaction import CheetahTasks, NavigationTasks
from distmeta.config.problems import DatasetTasks, QuadraticTasks
from distmeta.config.python import PythonTasks
from distmeta.config.shifts import ShiftedTasks
from distmeta.config.texts import BUCKETS, Buckets, Template
from distmeta.config.transfer import TextTransferTasks, TransferTasks


class StreamOptions(Frozen):
    """Streams of training classes, with labels among all of these (roles `trajectory` and `remember`).

    The support set of an evaluation task is a stream as well: it is not shuffled, but comes class after class.

    Attributes:
        classes: Classes of the trajectory of a training task, one after the other.
        shots: Examples of each, one after the other.
        queries: Further examples of each, which role `remember` begins with.
        remember: Examples of role `remember` that are drawn at random from all training classes.
    """

    classes: PositiveCount = 1
    shots: Examples = 20
    queries: int = Field(0, ge=0, le=1_000_000)
    remember: Examples = 64

    @property
    def max_examples(self) -> int:
        """Examples of a training task."""
        return self.classes * (self.shots + self.queries) + self.remember


class _FewShot(Frozen):
    """N-way K-shot classification, common to all sources of classes.

    Attributes:
        way: Classes of an evaluation task, and of a training task unless `train_way` is set.
        shots: Support examples per class of an evaluation task, and of a training task unless `train_shots` is set.
        queries: Query examples per class of a training task.
        eval_queries: Query examples per class of an evaluation task.
        train_way: Classes of a training task (ProtoNet trains with more classes than it is tested with).
        train_shots: Support examples per class of a training task (Reptile trains with more shots).
        label_noise: Share of the support examples of each class that have the label of another class of the task,
            rounded to whole examples; as many of each label remain. Queries keep their labels.
        stream: Streams of training classes, for methods of continual learning; None: tasks have no such roles.
    """

    way: Ways = 5
    shots: Examples = 1
    queries: Examples = 15
    eval_queries: Examples = 15
    train_way: Ways | None = None
    train_shots: Examples | None = None
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    stream: StreamOptions | None = None

    has_classes: ClassVar[bool] = True
    has_images: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True

    @model_validator(mode="after")
    def _noise_is_of_whole_examples(self) -> Self:
        for shots in (self.shots, self.train_shots or self.shots):
            if self.label_noise and not 0 < self.wrong_labels(shots) < shots:
                raise ValueError(
                    f"label_noise {self.label_noise} of {shots} shots is {self.wrong_labels(shots)} wrong labels; "
                    "allowed: 0, or a share that makes one or more wrong, and not all"
                )
        return self

    def wrong_labels(self, shots: int) -> int:
        """Support examples of each class whose label is wrong, of so many."""
        return round(self.label_noise * shots)

    @property
    def changes_outputs(self) -> bool:
        """Whether training tasks have another number of outputs than evaluation tasks."""
        return self.train_way not in (None, self.way)

    @property
    def max_examples(self) -> int:
        """Examples of a training or an evaluation task, whichever has more."""
        training = (self.train_way or self.way) * ((self.train_shots or self.shots) + self.queries)
        stream = 0 if self.stream is None else self.stream.max_examples
        return max(training, stream, self.way * (self.shots + self.eval_queries))


class StoreTasks(_FewShot):
    """Tasks from an Arrow class store of images.

    Attributes:
        store: Name of a store (`distmeta data list`) or path of its folder.
        split_set: Name of the class split in the store's manifest; None takes the only one.
        rotations: Whether images rotated by 90, 180 and 270 degrees are further classes (Santoro et al. 2016).
        one_group: Whether the classes of a task are of one group, such as an alphabet: what their names have before
            the first `/` (Lake et al. 2015). Groups of fewer classes than ways are left out.
        same_rows: Whether the examples of a task have the same numbers in all of its classes. Of Omniglot they are one
            drawer's, the support set's another one's than the queries', if there is one of each (Lake et al. 2015).
    """

    source: Literal["images"] = "images"
    store: Text = "omniglot"
    split_set: Text | None = None
    rotations: bool = False
    one_group: bool = False
    same_rows: bool = False


class VectorTasks(_FewShot):
    """Tasks from an Arrow class store of vectors, for instance features of a pre-trained network.

    Attributes:
        store: Name of a store (`distmeta data list`) or path of its folder.
        split_set: Name of the class split in the store's manifest; None takes the only one.
        standardise: Whether each number of a vector is shifted and scaled by mean and standard deviation over the
            examples of the training classes.
    """

    has_images: ClassVar[bool] = False
    rotations: ClassVar[bool] = False
    one_group: ClassVar[bool] = False
    same_rows: ClassVar[bool] = False
    source: Literal["vectors"] = "vectors"
    store: Text
    split_set: Text | None = None
    standardise: bool = False


class TextTasks(_FewShot):
    """Tasks from an Arrow class store of texts, as the token ids of a tokenizer.

    Attributes:
        store: Name of a store (`distmeta data list`) or path of its folder.
        split_set: Name of the class split in the store's manifest; None takes the only one.
        tokenizer: `minilm`, `words` or `words:SIZE` (words of the training classes), a folder with `tokenizer.json`, or
            a name on the Hugging Face hub.
        buckets: Lengths in tokens that tasks are padded to, ascending. Longer texts are cut to the last one.
        outside: Whether evaluation tasks have a role `outside`: texts of the out-of-scope class.
        template: What is put around every text, in place of `{}`: `query: {} intent:`.
    """

    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = True
    has_numbers: ClassVar[bool] = False
    rotations: ClassVar[bool] = False
    one_group: ClassVar[bool] = False
    same_rows: ClassVar[bool] = False
    source: Literal["texts"] = "texts"
    store: Text
    split_set: Text | None = None
    tokenizer: Text = "minilm"
    buckets: Buckets = BUCKETS
    outside: bool = False
    template: Template = "{}"

    @property
    @override
    def max_examples(self) -> int:
        """Texts of a training or an evaluation task, whichever has more."""
        outside = self.way * self.eval_queries if self.outside else 0
        return max(super().max_examples, self.way * (self.shots + self.eval_queries) + outside)


class GlyphTasks(_FewShot):
    """Procedurally drawn characters: an unlimited number of classes, no download.

    Attributes:
        size: Side of the images in pixels.
        jitter: Variation between drawings of a class, relative to the default; 0 makes them all equal.
    """

    source: Literal["glyphs"] = "glyphs"
    size: int = Field(28, ge=8, le=128)
    jitter: float = Field(1.0, ge=0.0, le=3.0)


class SinusoidTasks(Frozen):
    """Regression on `y = amplitude * sin(x - phase)` (Finn et al. 2017, section 5.1).

    Attributes:
        shots: Support points.
        queries: Query points in training.
        eval_queries: Query points at evaluation.
        amplitude: Range of the amplitude.
        phase: Range of the phase in radians.
        inputs: Range of x.
    """

    source: Literal["sinusoid"] = "sinusoid"
    shots: Examples = 10
    queries: Examples = 10
    eval_queries: Examples = 100
    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, 3.141592653589793)
    inputs: Range = (-5.0, 5.0)

    has_classes: ClassVar[bool] = False
    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Support and query points of a training or an evaluation task, whichever has more."""
        return self.shots + max(self.queries, self.eval_queries)


class TableTasks(Frozen):
    """Regression tasks from the rows of a table: each group of rows is a task.

    Support and query rows of a task are distinct.

    Attributes:
        table: Name or folder of a store (`distmeta data import NAME FILE --group COL`), or a csv, tsv, parquet, jsonl
            or Arrow file, which is imported at first use.
        group: Column of a file that says which task a row belongs to; None is `group`.
        inputs: Columns of a file that are inputs; None takes all that are nothing else.
        target: Column of a file that is predicted; None is `target`.
        split: Column of a file that holds the split of each group (train, val or test); None splits them at random, in
            shares of 0.64, 0.16 and 0.2.
        split_set: Name of the split in the store's manifest; None takes the only one.
        standardise: Whether each input is shifted and scaled by mean and standard deviation over the rows of the
            training groups.
        shots: Support rows.
        queries: Query rows in training.
        eval_queries: Query rows at evaluation.
    """

    source: Literal["table"] = "table"
    table: Text
    group: Text | None = None
    inputs: tuple[Text, ...] | None = Field(None, min_length=1, max_length=10_000)
    target: Text | None = None
    split: Text | None = None
    split_set: Text | None = None
    standardise: bool = False
    shots: Examples = 10
    queries: Examples = 10
    eval_queries: Examples = 10

    has_classes: ClassVar[bool] = False
    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Support and query rows of a training or an evaluation task, whichever has more."""
        return self.shots + max(self.queries, self.eval_queries)


ClassTasks = StoreTasks | VectorTasks | TextTasks | GlyphTasks
"""Few-shot classification, whatever the examples are."""

TasksConfig = Annotated[
    Annotated[
        StoreTasks
        | GlyphTasks
        | SinusoidTasks
        | VectorTasks
        | TextTasks
        | TableTasks
        | QuadraticTasks
        | DatasetTasks
        | TransferTasks
        | TextTransferTasks
        | ShiftedTasks
        | NavigationTasks
        | CheetahTasks
        | PythonTasks,
        Field(discriminator="source"),
    ],
    BeforeValidator(PythonTasks.of),
]
