"""Tasks whose examples have another distribution at evaluation than in training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import Examples, Text

CorruptionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CorruptionShift(Frozen):
    """Shifted images are corrupted (CIFAR-10-C, Hendrycks & Dietterich 2019): an input-level shift.

    Attributes:
        names: Corruptions. Of several, each has its part of a task's examples, one after the other.
        severity: 1 to 5.
    """

    kind: Literal["corruption"] = "corruption"
    names: tuple[CorruptionName, ...] = Field(("gaussian_noise",), min_length=1, max_length=100)
    severity: int = Field(5, ge=1, le=5)


class LabelShift(Frozen):
    """Shifted examples of class c have label C - 1 - c (CIFAR-Flip, Lee et al. 2023): an output-level shift."""

    kind: Literal["labels"] = "labels"


class SpuriousShift(Frozen):
    """Images have a mark that says the class in training, and nothing under the shift: a spurious correlation.

    The mark is a bright bar at the top border; its place says a class.

    Attributes:
        correlation: Share of unshifted images whose mark is that of their class; the others', and all marks of shifted
            images, are those of any class.
    """

    kind: Literal["spurious"] = "spurious"
    correlation: Share = 0.95


class SubclassShift(Frozen):
    """Classes are groups of the store's; shifted examples are of other members (a feature-level shift).

    Attributes:
        classes: Name of a class -> names of the store's classes that are its members: those of training, and those
            under the shift.
    """

    kind: Literal["subclass"] = "subclass"
    classes: dict[Text, tuple[tuple[Text, ...], tuple[Text, ...]]] = Field(min_length=2, max_length=1000)

    @field_validator("classes")
    @classmethod
    def _members_are_there_once(
        cls, classes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    ) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        for name, parts in classes.items():
            if not all(parts):
                raise ValueError(f"class '{name}' has no members in training or under the shift; allowed: some of both")
        members = [member for parts in classes.values() for part in parts for member in part]
        for member in members:
            if members.count(member) > 1:
                raise ValueError(f"'{member}' is a member {members.count(member)} times; allowed: once")
        return classes


Shift = Annotated[CorruptionShift | LabelShift | SpuriousShift | SubclassShift, Field(discriminator="kind")]


class Augmentation(Frozen):
    """Random changes of training images.

    Attributes:
        crop: Pixels by which an image is moved at most, in both directions; what comes in is black.
        flip: Whether every other image is mirrored.
    """

    crop: int = Field(4, ge=0, le=64)
    flip: bool = True


class ShiftedTasks(Frozen):
    """All classes of a store of images as one problem, whose validation and test tasks are under a shift.

    The examples of each class are divided among the splits by their place in the store. A task draws its own, none
    twice. Roles: `support` and `query`; `unlabelled`, shifted images without labels (at evaluation those of the
    queries); `domains`, labelled and unlabelled images together; `rotation`, the images of the queries turned, with the
    number of quarter turns as label: each one by a random number in training, in all four orientations at evaluation
    (TTT, Sun et al. 2020).

    Attributes:
        store: Name of a store (`distmeta data list`) or path of its folder.
        shares: Shares of the examples of each class in train, val and test.
        examples: Support examples: labelled ones under the shift, at evaluation.
        queries: Query examples in training.
        eval_queries: Query examples at evaluation.
        augment: Random changes of training images; None: none.
        shift: What is different at evaluation; None: nothing.
    """

    source: Literal["shifted"] = "shifted"
    store: Text = "cifar10"
    shares: tuple[Share, Share, Share] = (0.8, 1 / 30, 1 / 6)
    examples: int = Field(100, ge=0, le=1_000_000)
    queries: Examples = 64
    eval_queries: Examples = 200
    augment: Augmentation | None = None
    shift: Shift | None = None

    has_classes: ClassVar[bool] = True
    has_images: ClassVar[bool] = True
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @model_validator(mode="after")
    def _shares_are_of_one(self) -> Self:
        if abs(sum(self.shares) - 1) > 1e-6 or not self.shares[0]:
            raise ValueError(f"shares {list(self.shares)} sum to {sum(self.shares):g}; allowed: 1, and some for train")
        return self

    @property
    def max_examples(self) -> int:
        """Examples of all roles of a training or an evaluation task, whichever has more."""
        return self.examples + max(3 * self.queries, 6 * self.eval_queries)
