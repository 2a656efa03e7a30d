"""Load a trained learner, adapt it to a few labelled examples, predict.

Shapes: N support examples, Q query examples, O outputs.

Example:
    >>> learner = distmeta.load("runs/omniglot_maml")
    >>> predict = learner.adapt(x, y)       # x: [N, C, H, W] in [0, 1]; y: [N] labels of any kind
    >>> labels = predict(queries)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distmeta import checkpoint as checkpoints
from distmeta.checkpoint.reading import Which
from distmeta.config import RunConfig
from distmeta.config.python import require_trust
from distmeta.core.errors import UserError
from distmeta.core.types import SUPPORT, Batch, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.methods.build import build_algorithm, build_evaluators, check_params, dtype_of, protocol_of
from distmeta.methods.learners.base import Learner
from distmeta.tasks.base import TaskSignature
from distmeta.tracking.uris import mask_uri

Array = npt.NDArray[Any]


class Predictor:
    """An adapted learner. Call it with query examples [Q, *input_shape]."""

    def __init__(self, learner: Learner, meta: Params, support: Batch, classes: Array | None) -> None:
        self._ops, self._meta, self._classes = one_by_one(learner), meta, classes
        examples = support.map(lambda tensor: tensor.unsqueeze(0))
        self._task = Episode({SUPPORT: examples}, torch.zeros(1, dtype=torch.int64))
        self._state = self._ops.adapt(meta, self._task)

    def __call__(self, inputs: npt.ArrayLike) -> Array:
        """Predict labels [Q] of the kind that the support set had, or values [Q, O] for regression.

        Raises:
            UserError: `inputs` are not numbers, or have another shape than [any number, *input_shape].
        """
        outputs = self.outputs(inputs)
        return outputs if self._classes is None else self._classes[outputs.argmax(1)]

    def outputs(self, inputs: npt.ArrayLike) -> Array:
        """The network's outputs [Q, O]: logits, in the sorted order of the labels, for classification.

        Raises:
            UserError: As for a call.
        """
        queries = _tensor(inputs, self._task.support.inputs[0], "query inputs")
        return self._ops.predict(self._meta, self._state, self._task, queries.unsqueeze(0))[0].numpy()


class AdaptableLearner:
    """Trained meta-parameters with their learner, on the CPU.

    Attributes:
        config: Configuration of the run that trained them.
        input_shape: Shape of one example.
        is_classifier: Whether tasks are classification.
        way: Number of classes that a support set must have; None if any number is allowed.
        protocol: What batch norm takes its statistics from: the query examples of one call (`transductive`), or the
            support set (`inductive`).

    Raises:
        UserError: The network does not support `protocol`.
    """

    def __init__(
        self, config: RunConfig, signature: TaskSignature, params: Params, protocol: str | None = None
    ) -> None:
        self.config, self.input_shape = config, signature.input_shape
        algorithm = build_algorithm(config, signature)
        self.protocol = protocol or protocol_of(algorithm)
        self._signature, self._params = signature, params
        self.is_classifier = signature.objective == "cross_entropy"
        keeps_outputs = config.algorithm.evaluated_learner().keeps_outputs
        self.way = signature.num_outputs if keeps_outputs and self.is_classifier else None
        if self.protocol not in algorithm.evaluators:
            allowed = ", ".join(algorithm.evaluators)
            raise UserError(f"unknown protocol '{self.protocol}'", where="protocol", allowed=allowed)

    def adapt(self, inputs: npt.ArrayLike, targets: npt.ArrayLike | Sequence[Any]) -> Predictor:
        """Adapt to labelled examples.

        Args:
            inputs: [N, *input_shape] numbers; images in [0, 1].
            targets: [N] labels of any sortable type for classification, [N, O] values for regression.

        Raises:
            UserError: The shapes, the number of targets or the number of classes do not fit.
        """
        dtype = dtype_of(self.config)
        x = _tensor(inputs, torch.zeros(1, *self.input_shape, dtype=dtype), "support inputs")
        y = _rows(targets, len(x))
        classes: Array | None = None
        signature = self._signature
        if self.is_classifier:
            classes, codes = _encode(y)
            if self.way is not None and len(classes) != self.way:
                raise UserError(
                    f"{len(classes)} classes in the support set, but this learner was meta-trained for {self.way}",
                    where="support",
                    allowed=f"exactly {self.way} classes",
                )
            signature = replace(signature, num_outputs=len(classes))
            target = torch.from_numpy(codes)
        else:
            target = _tensor(y, torch.zeros(1, signature.num_outputs, dtype=dtype), "support targets")
        learner = build_evaluators(self.config, signature)[self.protocol]
        return Predictor(learner, self._params, Batch(x, target), classes)


def load(
    path: str, *, which: Which = "latest", protocol: str | None = None, trust_code: bool = False
) -> AdaptableLearner:
    """Load a trained learner from a checkpoint; needs neither the run's data nor a cluster.

    Args:
        path: A checkpoint, or the folder of a run.
        which: The newest checkpoint of the folder, the one before it, or the best by validation score.
        protocol: See `AdaptableLearner`; None takes the one that the run was trained under.
        trust_code: Run the code that the checkpoint names: a network or learner of one's own.

    Raises:
        UserError: There is no intact checkpoint at `path`, or the network does not support `protocol`.
    """
    checkpoint = checkpoints.load(path, which)
    config, signature, where = checkpoint.config, checkpoint.signature, mask_uri(checkpoint.path)
    require_trust(config, where, trusted=trust_code)
    check_params(config, signature, checkpoint.averaged, checkpoint.buffers, where)
    return AdaptableLearner(config, signature, {**checkpoint.averaged, **checkpoint.buffers}, protocol)


def _rows(targets: npt.ArrayLike | Sequence[Any], count: int) -> Array:
    """Targets as an array [N, _]."""
    try:
        array = np.asarray(targets)
    except ValueError as error:
        raise UserError(f"not an array ({error})", where="support targets", allowed="targets of equal shape") from None
    num_targets = len(array) if array.ndim else 1
    if num_targets != count or not count:
        what = f"{count} inputs and {num_targets} targets"
        raise UserError(what, where="support", allowed="one target for each input, at least one input")
    return array.reshape(count, -1)


def _encode(labels: Array) -> tuple[Array, Array]:
    """The sorted classes among labels [N, 1], and each label's position [N] among them."""
    if labels.shape[1] != 1:
        raise UserError(f"shape {list(labels.shape)}", where="support targets", allowed=f"[{len(labels)}] labels")
    try:
        classes, codes = np.unique(labels[:, 0], return_inverse=True)
    except TypeError as error:
        raise UserError(str(error), where="support targets", allowed="labels that can be sorted") from None
    return classes, codes.astype(np.int64)


def _tensor(values: npt.ArrayLike, like: torch.Tensor, what: str) -> torch.Tensor:
    """`values` as a tensor [B, *shape], where `like` [_, *shape] sets shape and type of an example."""
    try:
        tensor = torch.from_numpy(np.array(values, dtype=np.float64)).to(like.dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"not an array of numbers ({error})", where=what, allowed="numbers") from None
    if tensor.shape[1:] != like.shape[1:]:
        raise UserError(
            f"shape {list(tensor.shape)}", where=what, allowed=f"[any number, {', '.join(map(str, like.shape[1:]))}]"
        )
    return tensor
