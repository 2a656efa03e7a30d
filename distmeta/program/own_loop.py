"""The parts of a method, for training loops of one's own.

    algorithm = distmeta.build(config)
    meta = algorithm.init()
    optimizer = torch.optim.Adam(meta.values())
    for step in range(1000):
        mean = algorithm.update(meta, algorithm.tasks("train", step, 25))
        for name, grad in mean.grad.items():
            meta[name].grad = grad
        optimizer.step()
    task = algorithm.adapt(meta, x, y)                    # any number of steps, differentiable where asked
    outputs = algorithm.predict(task, queries)

Everything is a torch tensor on the device of the meta-parameters. Without a network of its own statistics or dropout,
nothing has state: the same arguments give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from distmeta.config import EngineConfig, EvaluateConfig, RunConfig
from distmeta.config.python import pinned
from distmeta.core.errors import UserError
from distmeta.core.types import LABELS, Batch, Episode, Params
from distmeta.engine.auto import choose_by_shapes
from distmeta.engine.engine import Engine, one_by_one
from distmeta.engine.ops import EagerOps
from distmeta.methods.build import Algorithm, build_algorithm, build_evaluators, dtype_of, protocol_of
from distmeta.methods.estimators.base import Moment, State
from distmeta.tasks import build_source


class Mean(NamedTuple):
    """The outer signal of some tasks, averaged over them.

    Attributes:
        grad: By name of the meta-parameter; those without a signal are missing.
        metrics: `loss`, `accuracy`, ...
        buffers: Running statistics after the tasks, by name.
    """

    grad: Params
    metrics: Mapping[str, float]
    buffers: Params


class AdaptedTask(NamedTuple):
    """A task that has been adapted to.

    Attributes:
        ops: How.
        meta: Meta-parameters.
        state: The state after adaptation.
        task: What it was adapted to, as a shard of one task.
    """

    ops: EagerOps
    meta: Params
    state: State
    task: Episode


class OwnLoop:
    """A method with its tasks, outside of a run.

    Args:
        config: The run; sections `runtime`, `train`, `outer`, `tracking` and `checkpoint` are not used.

    Raises:
        UserError: Tasks, network and method do not fit together.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = pinned(config)
        self.source = build_source(config.tasks, config.seed, dtype_of(config))
        self.signature = self.source.signature
        self.algorithm: Algorithm = build_algorithm(self.config, self.signature)
        self._engines: dict[EngineConfig, Engine] = {}

    def init(self, seed: int | None = None, device: str | torch.device = "cpu") -> Params:
        """Initial meta-parameters, and running statistics of networks that have them; by default of the run's seed."""
        learner = self.algorithm.learner
        params = learner.init(self.config.seed if seed is None else seed)
        return {name: tensor.to(device) for name, tensor in {**params, **learner.backbone.buffers()}.items()}

    def tasks(self, split: str, step: int, count: int) -> Episode:
        """The tasks of a step, with a leading axis T = `count`: those that a run of this configuration would draw."""
        return self.source.episodes(self.source.specs(split, step, count), self.algorithm.roles(split))

    def update(self, meta: Params, episodes: Episode, step: int = 0) -> Mean:
        """The outer signal, averaged over the T tasks; `meta` is not changed.

        Args:
            meta: Meta-parameters.
            episodes: T tasks.
            step: Number of outer steps made, for methods that change along training (MAML++).

        Returns:
            Gradients, metrics and running statistics.

        Raises:
            UserError: The estimator keeps a state from step to step.
        """
        device = next(iter(meta.values())).device
        episodes = episodes.map(lambda tensor: tensor.to(device))
        engine = self.config.engine
        if engine.strategy == "auto":
            vmap = "vmap" not in self.algorithm.learner.backbone.limits
            engine = choose_by_shapes(engine, meta, episodes, vmap=vmap, device=device.type).apply(engine)
        if engine not in self._engines:
            algorithm = self.algorithm
            self._engines[engine] = Engine(algorithm.learner, algorithm.estimator, algorithm.terms, engine)
        update, carry = self._engines[engine].update(meta, episodes, Moment(step, episodes.seeds))
        if carry:
            what = "the estimator keeps a state from step to step, which loops of one's own do not"
            raise UserError(what, where="algorithm.estimator", allowed="one without a state (window null)")
        grad, buffers = (
            {name: tensor / update.weight for name, tensor in tensors.items()}
            for tensors in (update.grad, update.buffers)
        )
        return Mean(grad, {name: value / update.weight for name, value in update.metrics.items()}, buffers)

    def adapt(
        self,
        meta: Params,
        inputs: Tensor,
        targets: Tensor | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        differentiable: bool = False,
        protocol: str | None = None,
        labels: Tensor | None = None,
    ) -> AdaptedTask:
        """Adapt to one task.

        Args:
            meta: Meta-parameters, as `init` makes them.
            inputs: [N, ...].
            targets: [N, ...]; None for a learner that needs none.
            steps: Inner steps of the last phase; None takes those of evaluation.
            seed: Seed of random layers.
            differentiable: Keep the autograd graph, so that what is computed from the task has derivatives by `meta`.
            protocol: `transductive` or `inductive`; None takes the preferred one.
            labels: int64 [C, L] token ids of the names of the classes, for a learner that reads them (`label_words`).

        Raises:
            UserError: The learner reads names of classes, and `labels` is None.
        """
        config = self.config
        if steps is not None:
            learner_config = config.algorithm.evaluated_learner().with_steps(steps)
            algorithm = config.algorithm.model_copy(
                update={"learner": learner_config, "evaluate": EvaluateConfig(head=self.algorithm.eval_head)}
            )
            config = config.model_copy(update={"algorithm": algorithm})
        learner = build_evaluators(config, self.signature)[protocol or protocol_of(self.algorithm)]
        roles = {learner.roles[0]: Batch(inputs, targets)}
        if LABELS in learner.roles:
            if labels is None:
                raise UserError("the learner reads the names of classes", where="labels", allowed="their token ids")
            roles[LABELS] = Batch(labels)
        examples = {role: batch.map(lambda tensor: tensor.unsqueeze(0)) for role, batch in roles.items()}
        task = Episode(examples, torch.tensor([seed], device=inputs.device))
        ops = one_by_one(learner, differentiable=differentiable)
        return AdaptedTask(ops, meta, ops.adapt(meta, task), task)

    def predict(self, task: AdaptedTask, inputs: Tensor) -> Tensor:
        """Outputs [B, O] for `inputs` [B, ...]; with derivatives where adaptation was differentiable."""
        head = self.algorithm.eval_head
        return task.ops.predict(task.meta, task.state, task.task, inputs.unsqueeze(0), head=head)[0]


def build(config: RunConfig) -> OwnLoop:
    """The parts of a run's method, for a training loop of one's own (see `OwnLoop`)."""
    return OwnLoop(config)
