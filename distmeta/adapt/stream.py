"""Label batches as they come, and adapt to them without labels.

Shapes: B examples of a batch, O outputs.

Example:
    >>> label = distmeta.load("runs/test_time_tent").stream("tent", lr=1e-3)
    >>> for images in camera:               # images: [B, C, H, W] in [0, 1]
    ...     labels = label(images)          # int64 [B]
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distmeta.adapt.inputs import Examples, Reader
from distmeta.config import AlgorithmConfig, RunConfig
from distmeta.core.errors import UserError
from distmeta.core.types import ROTATION, UNLABELLED, Batch, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.engine.ops import EagerOps
from distmeta.methods.build import build_algorithm
from distmeta.methods.estimators.base import State
from distmeta.methods.heads import train_heads
from distmeta.models.base import HEAD, TRANSDUCTIVE
from distmeta.tasks.base import TaskSignature
from distmeta.tasks.turned import TURNS, turned

Setting = Literal["online", "episodic"]
Order = Literal["before", "after"]
ROLES = (UNLABELLED, ROTATION)
"""Roles that can be made of examples without labels."""
_FIRST_STEPS = 64


class Stream:
    """Call it with batches [B, *input_shape], one after the other.

    Args:
        config: The run that trained the learner, with the method of the stream.
        signature: Sizes of its tasks.
        params: Meta-parameters and running statistics.
        reader: Reads the examples.
        setting: `online` goes on from the batch before, `episodic` starts each batch from the trained network.
        predict: Whether a batch is predicted before the steps that it makes, or after them.
        protocol: Statistics of batch norm at prediction; None takes those of the batch where the network can.

    Attributes:
        batches: Number of batches so far.
        classes: Names of the outputs, where all tasks of the run had the same classes.

    Raises:
        UserError: The method needs labels, or the network lacks what it adapts.
    """

    def __init__(
        self,
        config: RunConfig,
        signature: TaskSignature,
        params: Params,
        reader: Reader,
        setting: Setting = "online",
        predict: Order = "after",
        protocol: str | None = None,
    ) -> None:
        self._config, self._signature = config, _with_roles(config, signature)
        self.classes = self._signature.classes
        self._params, self._reader, self._protocol = params, reader, protocol
        self._is_online, self._is_after = setting == "online", predict == "after"
        self._learner = config.algorithm.evaluated_learner()
        self._steps, self.batches = self._learner.num_steps, 0
        self._state: State = None
        self._ops, self._head = self._build(max(_FIRST_STEPS, self._steps) if self._is_online else self._steps)

    def __call__(self, inputs: Examples) -> npt.NDArray[np.int64]:
        """Labels [B] of a batch: numbers of the outputs.

        Raises:
            UserError: `inputs` are not numbers of shape [any number, *input_shape].
        """
        labels: npt.NDArray[np.int64] = self.outputs(inputs).argmax(1)
        return labels

    def outputs(self, inputs: Examples) -> npt.NDArray[Any]:
        """The network's outputs [B, O] for a batch, which it adapts to."""
        x = self._reader.read(inputs, "inputs")
        if not len(x):
            raise UserError("no example", where="inputs", allowed="batches of one or more")
        roles = unlabelled_roles(x, self._roles)
        task = Episode({role: each.map(lambda tensor: tensor[None]) for role, each in roles.items()}, _NO_SEED)
        before = self._state if self._is_online and self._state is not None else self._start(task)
        after = self._adapted(task, before)
        self._state, self.batches = after, self.batches + 1
        shown = after if self._is_after else before
        outputs: npt.NDArray[Any] = self._ops.predict(self._params, shown, task, x[None], head=self._head)[0].numpy()
        return outputs

    def _start(self, task: Episode) -> State:
        return self._ops.start(self._params, task).state

    def _adapted(self, task: Episode, state: State) -> State:
        if not self._steps:
            return self._start(task)
        first = self.batches * self._steps if self._is_online else 0
        last = first + self._steps
        if last > self._ops.num_steps(task):
            self._ops, self._head = self._build(2 * last)
        for visit in self._ops.walk(self._params, task, state=state, first=first, last=last):
            state = visit.state
        return state

    def _build(self, steps: int) -> tuple[EagerOps, str]:
        """Operations of the learner with so many inner steps, of which each batch takes some."""
        evaluate = self._config.algorithm.evaluate.model_copy(
            update={"learner": self._learner.with_steps(steps), "steps": None, "stream": None}
        )
        algorithm_config = self._config.algorithm.model_copy(update={"evaluate": evaluate})
        algorithm = build_algorithm(self._config.model_copy(update={"algorithm": algorithm_config}), self._signature)
        evaluators = algorithm.evaluators
        protocol = self._protocol or (TRANSDUCTIVE if TRANSDUCTIVE in evaluators else next(iter(evaluators)))
        if protocol not in evaluators:
            raise UserError(f"unknown protocol '{protocol}'", where="protocol", allowed=", ".join(evaluators))
        learner = evaluators[protocol]
        if labelled := [role for role in learner.roles if role not in ROLES]:
            raise UserError(
                f"method '{self._config.algorithm.method}' adapts to role '{labelled[0]}', which needs labels",
                where="stream",
                allowed="a method of unlabelled examples: bn_adapt, tent, ttt",
            )
        self._roles = learner.roles
        return one_by_one(learner), algorithm.eval_head


_NO_SEED = torch.zeros(1, dtype=torch.int64)


def unlabelled_roles(inputs: Tensor, roles: Collection[str]) -> dict[str, Batch]:
    """Those of the roles that examples [B, ...] without labels make."""
    made = {UNLABELLED: Batch(inputs)} if UNLABELLED in roles else {}
    return made | ({ROTATION: turned(inputs)} if ROTATION in roles else {})


def _with_roles(config: RunConfig, signature: TaskSignature) -> TaskSignature:
    """The tasks with the roles of a stream, whose examples are of the classes that the head was trained for."""
    head = config.algorithm.evaluated_head
    outputs = train_heads(config, signature).get(head, signature.num_outputs)
    made = {UNLABELLED: outputs}
    if len(signature.input_shape) == 3 and signature.input_shape[1] == signature.input_shape[2]:
        made[ROTATION] = TURNS
    classes = signature.classes if head == HEAD else None  # other heads are for other tasks
    return replace(signature, num_outputs=outputs, train_outputs={**made, **signature.train_outputs}, classes=classes)


def with_method(config: RunConfig, method: AlgorithmConfig) -> RunConfig:
    """The run with the adaptation of another method at evaluation; what it has learned stays."""
    algorithm = config.algorithm.model_copy(update={"method": method.method, "evaluate": method.evaluate})
    return config.model_copy(update={"algorithm": algorithm})
