"""Which tasks to learn from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from distmeta.config.base import Frozen


class _FewShot(Frozen):
    """N-way K-shot classification, shared by every source of images.

    Attributes:
        way: Classes in a task at evaluation (and in training, unless `train_way` is set).
        shots: Support examples per class, likewise.
        queries: Query examples per class in training.
        eval_queries: Query examples per class at evaluation.
        train_way: Classes in a training task (ProtoNet trains on more classes than it is tested on).
        train_shots: Support examples per class in a training task (Reptile trains on more shots).
        joint: Training "tasks" are batches of all training classes with their global labels (joint pre-training);
            evaluation tasks are the usual episodes.
    """

    way: int = Field(5, ge=2)
    shots: PositiveInt = 1
    queries: PositiveInt = 15
    eval_queries: PositiveInt = 15
    train_way: int | None = Field(None, ge=2)
    train_shots: PositiveInt | None = None
    joint: bool = False


class StoreTasks(_FewShot):
    """Tasks over an Arrow class store of images.

    Attributes:
        store: Name or path of the store (`distmeta data list`).
        split_set: Name of the class split in the store's manifest; None takes the store's only one.
        rotations: Rotations by 90, 180 and 270 degrees are classes of their own (Santoro et al. 2016).
    """

    source: Literal["images"] = "images"
    store: str = "omniglot"
    split_set: str | None = None
    rotations: bool = False


class GlyphTasks(_FewShot):
    """Procedurally drawn characters: endless classes, no download.

    Attributes:
        size: Side of the images in pixels.
        jitter: How much drawers differ; 1 is the default style, 0 makes all drawings of a class equal.
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
        joint: Training scores the un-adapted network on all tasks (the paper's pre-trained baseline).
    """

    source: Literal["sinusoid"] = "sinusoid"
    shots: PositiveInt = 10
    queries: PositiveInt = 10
    eval_queries: PositiveInt = 100
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, 3.141592653589793)
    inputs: tuple[float, float] = (-5.0, 5.0)
    joint: bool = False


TasksConfig = Annotated[StoreTasks | GlyphTasks | SinusoidTasks, Field(discriminator="source")]
