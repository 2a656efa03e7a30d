"""Using what was learned: adapt to a few labelled examples, then predict.

Example:
    >>> learner = distmeta.load("runs/omniglot_maml")
    >>> predict = learner.adapt(x, y)       # x: [N, C, H, W] in [0, 1]; y: [N] labels of any kind
    >>> labels = predict(queries)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from distmeta import checkpoint as checkpoints
from distmeta.config import GradientConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.types import Batch, Params
from distmeta.methods.build import build_evaluators, dtype_of, protocol_of
from distmeta.methods.learners.base import Fast, Learner
from distmeta.tasks.base import TaskSignature

Array = npt.NDArray[Any]


class Predictor:
    """An adapted learner: call it with examples [Q, ...]."""

    def __init__(self, learner: Learner, meta: Params, fast: Fast, support: Batch, classes: Array | None) -> None:
        self._learner, self._meta, self._fast, self._support = learner, meta, fast, support
        self._classes = classes

    def __call__(self, inputs: npt.ArrayLike) -> Array:
        """Predict: labels [Q] of the kind that was adapted to, or values [Q, O] for regression."""
        outputs = self.outputs(inputs)
        return outputs if self._classes is None else self._classes[outputs.argmax(1)]

    def outputs(self, inputs: npt.ArrayLike) -> Array:
        """The network's raw outputs [Q, O] (logits for classification)."""
        queries = _tensor(inputs, self._support.inputs, "query inputs")
        with torch.no_grad():
            return self._learner.predict(self._meta, self._fast, self._support, queries).numpy()


class AdaptableLearner:
    """Meta-parameters with their learner, on the CPU.

    Attributes:
        config: The run they come from.
        input_shape: Shape of one example.
        way: Classes that a task must have; None if any number will do.
        protocol: Where batch norm takes its statistics from: the queries given together (`transductive`) or the support
            examples alone (`inductive`).
    """

    def __init__(
        self, config: RunConfig, signature: TaskSignature, params: Params, protocol: str | None = None
    ) -> None:
        self.config, self.input_shape = config, signature.input_shape
        self.protocol = protocol or protocol_of(config)
        self._signature, self._params = signature, params
        learner = config.algorithm.learner
        fixed = isinstance(learner, GradientConfig) and learner.head == "meta"
        self.is_classifier = signature.objective == "cross_entropy"
        self.way = signature.num_outputs if fixed and self.is_classifier else None
        protocols = build_evaluators(config, signature)
        if self.protocol not in protocols:
            raise UserError(f"unknown protocol '{self.protocol}'", where="protocol", allowed=", ".join(protocols))

    def adapt(self, inputs: npt.ArrayLike, targets: npt.ArrayLike | Sequence[Any]) -> Predictor:
        """Adapt to labelled examples.

        Args:
            inputs: [N, *input_shape] numbers; images in [0, 1].
            targets: [N] labels of any kind for classification, [N, O] values for regression.

        Raises:
            UserError: Shapes or the number of classes do not fit.
        """
        dtype = dtype_of(self.config)
        x = _tensor(inputs, torch.zeros(1, *self.input_shape, dtype=dtype), "support inputs")
        y = np.asarray(targets)
        if len(y) != len(x) or not len(x):
            what = f"{len(x)} inputs and {len(y)} targets"
            raise UserError(what, where="support", allowed="one target an input, one or more")
        classes: Array | None = None
        signature = self._signature
        if self.is_classifier:
            classes, codes = np.unique(y, return_inverse=True)
            if self.way is not None and len(classes) != self.way:
                raise UserError(
                    f"{len(classes)} classes in the support set, but this learner was meta-trained for {self.way}",
                    where="support",
                    allowed=f"exactly {self.way} classes",
                )
            signature = replace(signature, num_outputs=len(classes))
            target = torch.from_numpy(codes.reshape(-1).astype(np.int64))
        else:
            target = torch.as_tensor(y, dtype=dtype).reshape(len(x), signature.num_outputs)
        learner = build_evaluators(self.config, signature)[self.protocol]
        support = Batch(x, target)
        with torch.no_grad():
            fast = learner.adapt(self._params, support)
        return Predictor(learner, self._params, fast, support, classes)


def load(path: str, *, which: Literal["latest", "best"] = "latest", protocol: str | None = None) -> AdaptableLearner:
    """Load a run's learner from a checkpoint; neither its data nor a cluster is needed.

    Args:
        path: A checkpoint, or a run's folder.
        which: The newest checkpoint of the folder, or the best by validation.
        protocol: See `AdaptableLearner`; None takes the one it was trained under.

    Raises:
        UserError: There is no sound checkpoint at `path`.
    """
    found = checkpoints.load(path, which)
    return AdaptableLearner(found.config, found.signature, found.averaged, protocol)


def _tensor(values: npt.ArrayLike, like: torch.Tensor, what: str) -> torch.Tensor:
    """Numbers [B, *shape] with the shape and type of `like`'s examples."""
    try:
        tensor = torch.from_numpy(np.array(values, dtype=np.float64)).to(like.dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"not an array of numbers ({error})", where=what, allowed="numbers") from None
    if tensor.shape[1:] != like.shape[1:]:
        raise UserError(
            f"shape {list(tensor.shape)}", where=what, allowed=f"[any number, {', '.join(map(str, like.shape[1:]))}]"
        )
    return tensor
