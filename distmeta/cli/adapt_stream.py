"""`distmeta adapt --unlabelled`: images that are labelled in batches, which the learner adapts to as they come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distmeta.cli.adapt_images import image_kinds, images_in, read_images
from distmeta.core.errors import UserError

if TYPE_CHECKING:
    from distmeta.adapt.load import AdaptableLearner

SETTINGS = ("online", "episodic")


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is made of.

    Attributes:
        folder: The images.
        method: Name of a method, or None for that of the run.
        batch: Images of a batch.
        setting: One of `SETTINGS`.
        lr: Learning rate of the method; None takes its own.
        invert: Swap dark and light.
    """

    folder: Path
    method: str | None
    batch: int
    setting: str
    lr: float | None
    invert: bool


class Unlabelled:
    """Images of a folder, in the order of their names."""

    classes: None = None

    def __init__(self, options: StreamOptions) -> None:
        if options.batch < 1:
            raise UserError(f"{options.batch} images", where="--batch", allowed="1 or more")
        if options.setting not in SETTINGS:
            raise UserError(f"unknown setting '{options.setting}'", where="--setting", allowed=", ".join(SETTINGS))
        if options.lr is not None and (options.method is None or not 0 < options.lr < 1e6):
            raise UserError(f"{options.lr:g}", where="--lr", allowed="a positive number, beside a --method with steps")
        self._options, self._files = options, images_in(options.folder)
        if not self._files:
            raise UserError("holds no image", where=str(options.folder), allowed=image_kinds())

    def label(self, learner: AdaptableLearner) -> list[dict[str, Any]]:
        options = self._options
        settings = {} if options.lr is None else {"lr": options.lr}
        stream = learner.stream(options.method, setting=options.setting, **settings)  # type: ignore[arg-type]
        rows, names = [], stream.classes
        for start in range(0, len(self._files), options.batch):
            files = self._files[start : start + options.batch]
            outputs = stream.outputs(read_images(files, learner.input_shape, options.invert)).astype(np.float64)
            weights = np.exp(outputs - outputs.max(1, keepdims=True))
            confidences = weights / weights.sum(1, keepdims=True)
            rows += [
                {
                    "file": path.name,
                    "label": int(label) if names is None else names[label],
                    "confidence": float(confidence),
                }
                for path, label, confidence in zip(files, outputs.argmax(1), confidences.max(1), strict=True)
            ]
        return rows

    def as_json(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"labels": {row["file"]: row["label"] for row in rows}}
