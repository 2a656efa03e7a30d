"""Load a trained learner, adapt it to a few labelled examples, predict.

Shapes: N support examples, Q query examples, O outputs, C classes.

Example:
    >>> learner = distmeta.load("runs/omniglot_maml")
    >>> predict = learner.adapt(x, y)       # x: [N, C, H, W] in [0, 1]; y: [N] labels of any kind
    >>> labels = predict(queries)

A learner of texts takes sentences:

    >>> learner = distmeta.load("runs/intents_lora_protonet")
    >>> predict = learner.adapt(["Where is my parcel?", "I was charged twice"], ["delivery", "payment"])
    >>> predict(["It has not arrived"]), predict.confidences(["It has not arrived"])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from distmeta import checkpoint as checkpoints
from distmeta.adapt.inputs import Examples, Reader, reader_of, to_numbers
from distmeta.adapt.policy import AdaptedPolicy, Environment, EnvironmentRollouts, size_of
from distmeta.adapt.stream import Order, Setting, Stream, unlabelled_roles, with_method
from distmeta.adapt.trial import Trial
from distmeta.checkpoint.reading import Which
from distmeta.config import AlgorithmConfig, RunConfig
from distmeta.config.python import require_trust
from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError
from distmeta.core.types import LABELS, SUPPORT, Batch, Episode, Params
from distmeta.engine.engine import one_by_one
from distmeta.methods import method as preset
from distmeta.methods.build import build_algorithm, build_evaluators, check_params, dtype_of, protocol_of
from distmeta.methods.learners.base import Learner
from distmeta.tasks.base import TaskSignature
from distmeta.tracking.uris import mask_uri

Array = npt.NDArray[Any]


class Predictor:
    """An adapted learner. Call it with query examples: [Q, *input_shape] numbers, or a list of Q sentences.

    Attributes:
        classes: [C] the labels of the support set, sorted; None for regression.
    """

    def __init__(
        self, learner: Learner, head: str, meta: Params, support: Batch, classes: Array | None, reader: Reader
    ) -> None:
        self._ops, self._head, self._meta, self.classes, self._reader = one_by_one(learner), head, meta, classes, reader
        roles = {SUPPORT: support}
        if LABELS in learner.roles and classes is not None:
            roles[LABELS] = Batch(reader.names(classes.tolist(), "support targets"))
        roles |= unlabelled_roles(support.inputs, learner.roles)
        sizes = reader.sizes(support.inputs)
        self._task = Episode(
            {role: batch.map(lambda tensor: tensor.unsqueeze(0)) for role, batch in roles.items()},
            torch.zeros(1, dtype=torch.int64),
            None if sizes is None else (sizes,),
        )
        self._state = self._ops.adapt(meta, self._task)

    def __call__(self, inputs: Examples) -> Array:
        """Predict labels [Q] of the kind that the support set had, or values [Q, O] for regression.

        Raises:
            UserError: `inputs` are not numbers of shape [any number, *input_shape], or not sentences.
        """
        outputs = self.outputs(inputs)
        return outputs if self.classes is None else self.classes[outputs.argmax(1)]

    def confidences(self, inputs: Examples) -> Array:
        """Predict the probability of every class: [Q, C], the softmax of the outputs, in the order of `classes`.

        Raises:
            UserError: As for a call, or the learner is one of regression.
        """
        if self.classes is None:
            raise UserError("regression has no classes", where="confidences", allowed="a learner of classes")
        outputs = self.outputs(inputs).astype(np.float64)
        weights = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        confidences: Array = weights / weights.sum(axis=1, keepdims=True)
        return confidences

    def outputs(self, inputs: Examples) -> Array:
        """The network's outputs [Q, O]: logits, in the sorted order of the labels, for classification.

        Raises:
            UserError: As for a call.
        """
        blocks = self._reader.blocks(inputs, "query inputs")
        return np.concatenate([self._outputs(block) for block in blocks])

    def _outputs(self, queries: torch.Tensor) -> Array:
        places = self._reader.places(queries)
        outputs = self._ops.predict(self._meta, self._state, self._task, queries.unsqueeze(0), places, head=self._head)
        array: Array = outputs[0].numpy()
        return array


class AdaptableLearner:
    """Trained meta-parameters with their learner, on the CPU.

    Attributes:
        config: Configuration of the run that trained them.
        input_shape: Shape of one example; (L,) for texts of L tokens at most.
        takes_texts: Whether examples are sentences.
        is_classifier: Whether tasks are classification.
        acts: Whether it is a policy, whose tasks are interactive.
        way: Number of classes that a support set must have; None if any number is allowed.
        protocol: What batch norm takes its statistics from: the query examples of one call (`transductive`), or the
            support set (`inductive`).

    Args:
        config: See above.
        signature: Sizes of the tasks.
        params: Meta-parameters and running statistics.
        protocol: See above; None takes the one of training.
        words: Vocabulary of the tokenizer `words`.

    Raises:
        UserError: The network does not support `protocol`, or the tokenizer of the run cannot be had.
    """

    def __init__(
        self,
        config: RunConfig,
        signature: TaskSignature,
        params: Params,
        protocol: str | None = None,
        words: Sequence[str] | None = None,
    ) -> None:
        self.config, self.input_shape = config, signature.input_shape
        algorithm = build_algorithm(config, signature)
        self.protocol = protocol or protocol_of(algorithm)
        self._signature, self._params = signature, params
        self.takes_texts = isinstance(config.tasks, TextTasks)
        self._reader = reader_of(config, signature, algorithm.learner.backbone.is_row_wise, words)
        self.is_classifier = signature.objective == "cross_entropy"
        if self.protocol not in algorithm.evaluators:
            allowed = ", ".join(algorithm.evaluators)
            raise UserError(f"unknown protocol '{self.protocol}'", where="protocol", allowed=allowed)
        self._head, self.acts = algorithm.eval_head, algorithm.learner.asks
        keeps_outputs = config.algorithm.evaluated_learner().keeps_outputs
        fresh = algorithm.evaluators[self.protocol].fresh
        if fresh and not fresh >= set(algorithm.learner.backbone.head_names(self._head)):
            keeps_outputs = True  # other heads than this one start anew for each task
        self.way = signature.num_outputs if keeps_outputs and self.is_classifier else None

    def adapt(self, inputs: Examples, targets: npt.ArrayLike | Sequence[Any]) -> Predictor:
        """Adapt to labelled examples.

        Args:
            inputs: [N, *input_shape] numbers, images in [0, 1]; or a list of N sentences, for a learner of texts.
            targets: [N] labels of any sortable type for classification, names if the learner reads those of classes
                (`label_words`); [N, O] values for regression.

        Raises:
            UserError: The shapes, the number of targets or the number of classes do not fit, or labels are no names.
        """
        if self.acts:
            allowed = "adapt_policy(environment), or begin_trial(environment) if it has a memory"
            raise UserError("a policy is adapted where it acts", where="adapt", allowed=allowed)
        x = self._reader.read(inputs, "support inputs")
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
            target = to_numbers(y, (signature.num_outputs,), dtype_of(self.config), "support targets")
        learner = build_evaluators(self.config, signature)[self.protocol]
        return Predictor(learner, self._head, self._params, Batch(x, target), classes, self._reader)

    def adapt_policy(
        self,
        environment: Environment,
        *,
        trajectories: int | None = None,
        horizon: int | None = None,
        seed: int = 0,
    ) -> AdaptedPolicy:
        """Adapt a policy: before each inner step it collects trajectories in the environment.

        Args:
            environment: Has `reset` and `step` as in gymnasium, whose environments and wrappers fit. It gets actions as
                the policy draws them: clipping is its own.
            trajectories: For each inner step; None takes `tasks.shots` of the run.
            horizon: Most steps of a trajectory; None takes `tasks.horizon` of the run.
            seed: Of the draws of the policy, and of those that `reset` gets.

        Raises:
            UserError: The learner is no policy, the environment has other observations or actions, or rewards are not
                finite.
        """
        if not self.acts:
            raise UserError("this learner does not act", where="adapt_policy", allowed="adapt(inputs, targets)")
        if self._signature.in_order:
            what = "this policy adapts by what it remembers while it acts"
            raise UserError(what, where="adapt_policy", allowed="begin_trial(environment)")
        count = size_of(self.config, "trajectories", "shots", trajectories)
        steps = size_of(self.config, "horizon", "horizon", horizon)
        trials = EnvironmentRollouts(environment, self._signature, steps, dtype_of(self.config))
        learner = build_evaluators(self.config, self._signature)[self.protocol]
        return AdaptedPolicy(learner, self._head, self._params, trials, count, seed)

    def begin_trial(self, environment: Environment, *, horizon: int | None = None, seed: int = 0) -> Trial:
        """Begin a trial of a policy with a memory: it has seen nothing of the environment yet.

        Args:
            environment: See `adapt_policy`.
            horizon: Most steps of an episode; None takes `tasks.horizon` of the run.
            seed: Of the draws of the policy, and of those that `reset` gets.

        Raises:
            UserError: The learner is no policy with a memory, it takes inner steps as well, or the environment has
                other actions.
        """
        if not self.acts or not self._signature.in_order:
            allowed = "adapt_policy(environment)" if self.acts else "adapt(inputs, targets)"
            raise UserError("this learner is no policy with a memory", where="begin_trial", allowed=allowed)
        if steps := self.config.algorithm.evaluated_learner().num_steps:
            what = f"this learner takes {steps} inner steps, for which it has to collect trials"
            raise UserError(what, where="begin_trial", allowed="a learner that adapts by its memory alone (rl2)")
        most = size_of(self.config, "horizon", "horizon", horizon)
        learner = build_evaluators(self.config, self._signature)[self.protocol]
        dtype = dtype_of(self.config)
        return Trial(learner, self._head, self._params, environment, self._signature, most, dtype, seed)

    def stream(
        self,
        method: AlgorithmConfig | str | None = None,
        *,
        setting: Setting = "online",
        predict: Order = "after",
        protocol: str | None = None,
        **settings: object,
    ) -> Stream:
        """Label batches as they come, adapting to them without labels.

        Args:
            method: A method that adapts to unlabelled examples (`bn_adapt`, `tent`, `ttt`), or its name; None takes the
                one of the run.
            setting: `online` goes on from the batch before, `episodic` starts each batch from the trained network.
            predict: Whether a batch is predicted before the steps that it makes, or after them.
            protocol: Statistics of batch norm at prediction; None takes those of the batch where the network can.
            settings: Arguments of a method that is named: `lr=1e-3`.

        Raises:
            UserError: The method needs labels, the network lacks what it adapts, or the learner is one of regression
                or of texts.
        """
        if not self.is_classifier or self.takes_texts:
            what = "a stream has images or vectors of classes"
            raise UserError(what, where="stream", allowed="a learner that classifies these")
        for name, value, known in (("setting", setting, Setting), ("predict", predict, Order)):
            if value not in get_args(known):
                raise UserError(f"unknown {name} '{value}'", where="stream", allowed=", ".join(get_args(known)))
        config = self.config
        if method is not None:
            try:
                config = with_method(config, preset(method, **settings) if isinstance(method, str) else method)
            except TypeError as error:  # an argument that the preset does not have
                raise UserError(str(error), where="stream", allowed="arguments of the method") from None
        return Stream(config, self._signature, self._params, self._reader, setting, predict, protocol)


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
    return AdaptableLearner(
        config, signature, {**checkpoint.averaged, **checkpoint.buffers}, protocol, checkpoint.words
    )


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
