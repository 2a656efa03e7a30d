"""Train the network on a task by a learned optimizer, whose parameters are the meta-parameters.

    w_0     ~ initial values, drawn by the seed of the task
    w_{k+1} = w_k + rule(grad L_batch_k(w_k), w_k, slots_k; meta)              (`distmeta.methods.learners.rules`)

Andrychowicz et al. 2016 (arXiv 1606.04474). With terms at `each` inner step the outer loss is that of the whole
trajectory; with one at `last`, of its end.

Initial values are uniform around 0, of the standard deviation that those of the network have (`Backbone.init`, over a
few seeds); parameters that it fills with one number (zeros of biases, ones of norms) begin with this number.

Without `second_order` the gradients that the rule reads count as given: the outer derivative goes through the updates
and the rule's slots alone, and needs no second derivatives of the network (section 2.1 of the paper).

Shapes: B inputs, O outputs, P entries of all parameters, one parameter after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import grad
from typing_extensions import override

from distmeta.config.optimizers import LearnedOptimizerConfig
from distmeta.core.seeding import mix
from distmeta.core.types import Batch, Episode, Params
from distmeta.methods.learners.base import Learner, Stage
from distmeta.methods.learners.phases import batch_rows, group_names
from distmeta.methods.learners.rules import build_rule
from distmeta.methods.learners.rules.base import Slots, UpdateRule
from distmeta.methods.objectives import find_objective
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network
from distmeta.models.random import uniform

PREFIX = "optimizer."
_SAMPLES = 8
"""Initial values of the network that deviations are estimated from."""


class Optimisee(NamedTuple):
    """Adapted state.

    Attributes:
        params: [P] parameters of the network.
        slots: What the rule remembers.
    """

    params: Tensor
    slots: Slots


class OptimizerLearner(Learner):
    """Steps of an update rule on the task's examples.

    Args:
        config: The rule, number of steps, mini-batches.
        backbone: The network that is optimised; its initial values are not meta-parameters.
        objective: Name of the tasks' own loss.
        where: Field of the configuration that `config` is, for messages.

    Raises:
        UserError: An unknown head or objective is named.
    """

    draws = True
    rule: UpdateRule

    def __init__(
        self, config: LearnedOptimizerConfig, backbone: Backbone, objective: str, where: str = "algorithm.learner"
    ) -> None:
        super().__init__(backbone)
        group_names(backbone.groups(), config.head, f"{where}.head")
        self._config, self.rule = config, build_rule(config.rule)
        self._objective = find_objective(config.objective or objective, f"{where}.objective")
        self.roles = (config.role,)
        self._start = _Start(backbone, config.init_scale)
        self._stages: dict[int, Sequence[Stage]] = {}

    @override
    def init(self, seed: int) -> Params:
        """The parameters of the optimizer: `optimizer.*`."""
        rng = torch.Generator().manual_seed(mix(seed, "learned_optimizer"))
        params = self.rule.init(rng, self._start.dtype)
        return {f"{PREFIX}{name}": tensor for name, tensor in params.items()}

    @override
    def own(self, meta: Params) -> Params:
        return {name.removeprefix(PREFIX): tensor for name, tensor in meta.items()}

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Optimisee:
        assert task.seeds is not None, "initial values are drawn by the seeds of tasks"
        params = self._start.draw(task.seeds)
        return Optimisee(params, self.rule.start(params))

    @override
    def stages(self, rows: Mapping[str, int]) -> Sequence[Stage]:
        """One stage a step, all of one kind; the rule's scalars are theirs."""
        available = rows[self._config.role]
        if available not in self._stages:
            self._stages[available] = tuple(self._stage(k, available) for k in range(self._config.steps))
        return self._stages[available]

    def _stage(self, k: int, available: int) -> Stage:
        batch, steps = self._config.batch, self._config.steps
        selected = None if batch is None else batch_rows(available, batch, k)
        return Stage(0, self._config.role, selected, self.rule.scalars(k, steps))

    @override
    def advance(
        self, net: Network, meta: Params, fast: Optimisee, batch: Batch, kind: int, scalars: Tensor
    ) -> Optimisee:
        def loss(params: Tensor) -> tuple[Tensor, Params]:
            named, inner = self._start.named(params), net.fork()
            value, _ = self._objective(lambda inputs: inner(named, inputs, head=self._config.head), batch)
            return value, inner.buffers

        gradient, net.buffers = grad(loss, has_aux=True)(fast.params)
        gradient = gradient if self._config.second_order else gradient.detach()
        update, slots = self.rule.update(self.own(meta), fast.slots, gradient, fast.params, scalars, self._start.sizes)
        return Optimisee(fast.params + update, slots)

    @override
    def predict(
        self, net: Network, meta: Params, fast: Optimisee, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        return net(self._start.named(fast.params), inputs, task[self._config.role].inputs, head=head)


class _Start:
    """Initial values of a network's parameters, as functions of the seed of a task.

    Args:
        backbone: The network.
        scale: Factor of what is drawn.

    Attributes:
        dtype: Type of the parameters.
        sizes: Entries of each parameter.
    """

    def __init__(self, backbone: Backbone, scale: float) -> None:
        samples = [backbone.init(seed) for seed in range(_SAMPLES)]
        self._shapes = {name: tensor.shape for name, tensor in samples[0].items()}
        self.sizes = tuple(shape.numel() for shape in self._shapes.values())
        self.dtype = next(iter(samples[0].values())).dtype
        moments = [_mean_and_bound(torch.stack([sample[name] for sample in samples])) for name in self._shapes]
        self._means = [mean for mean, _ in moments]
        self._bounds = [scale * bound for _, bound in moments]

    def draw(self, seed: Tensor) -> Tensor:
        """[P] initial values; `seed` is int64 []."""
        drawn = uniform(seed, 0, (sum(self.sizes),), self.dtype)
        return self._spread(self._means, drawn) + self._spread(self._bounds, drawn) * (2 * drawn - 1)

    def _spread(self, values: Sequence[float], like: Tensor) -> Tensor:
        """One value for each parameter at all its entries [P]: made anew, as tensors that are kept cannot be traced."""
        pairs = zip(self.sizes, values, strict=True)
        return torch.cat([torch.full((n,), value, dtype=like.dtype, device=like.device) for n, value in pairs])

    def named(self, params: Tensor) -> Params:
        """[P] as parameters by name."""
        parts: Sequence[Tensor] = torch.split(params, list(self.sizes))
        return {name: part.reshape(self._shapes[name]) for name, part in zip(self._shapes, parts, strict=True)}


def _mean_and_bound(values: Tensor) -> tuple[float, float]:
    """Mean of what is always the same, otherwise 0; half the width of a uniform distribution of the same deviation."""
    array = values.double().numpy()  # numpy's sums do not depend on the number of threads
    if (array == array.flat[0]).all():
        return float(array.flat[0]), 0.0
    return 0.0, float(np.sqrt(3 * np.square(array).mean()))
