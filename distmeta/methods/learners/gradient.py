"""Adapt by gradient steps on the support set: the learner of MAML, ANIL, Meta-SGD, Reptile and fine-tuning.

    fast_0     = meta                                   (head of zeros where `head = fresh`)
    fast_{k+1} = fast_k - lr * direction(grad L_support(fast_k))

A phase sets which parameter groups move, for how many steps, at which rate and with which optimizer. MAML (Finn et al.
2017, arXiv 1703.03400) moves all parameters, ANIL (Raghu et al. 2020, arXiv 1909.09157) the head, Meta-SGD (Li et al.
2017, arXiv 1707.09835) all parameters with learned rates, one for each entry.

Everything is differentiable with respect to `meta`, Adam's moments included. Where no phase moves the body and every
step uses the whole support set, the support features are computed once for all steps (exact: they do not change).

Deviation from Reptile's code: inner mini-batches cycle through one random order of the support set instead of drawing a
new order for every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad
from typing_extensions import override

from distmeta.config import GradientConfig, Phase
from distmeta.core.errors import UserError, nearest
from distmeta.core.types import Batch, Params
from distmeta.methods.learners.base import Learner, Stage
from distmeta.methods.objectives import Objective, find_objective
from distmeta.models.base import Backbone

RATE_PREFIX = "inner_lr."
ADAM_EPSILON = 1e-8


class FastWeights(NamedTuple):
    """Adapted state.

    Attributes:
        moved: Values of the parameters that some phase moves, by name.
        first, second: Adam's first and second moments; empty if no phase uses Adam.
        features: [N, D] support features if no phase moves the body, else None.
    """

    moved: Params
    first: Params
    second: Params
    features: Tensor | None


class _Phase(NamedTuple):
    """A phase, the names of the parameters that it moves, and what it minimises."""

    phase: Phase
    names: frozenset[str]
    objective: Objective


class GradientLearner(Learner):
    """Gradient steps in phases.

    Args:
        config: Phases, learned rates, head.
        backbone: The network.
        objective: Name of the objective of phases that name none: the tasks' own.
        evaluating: Use `eval_phases`.

    Raises:
        UserError: A phase names an unknown parameter group or objective.
    """

    def __init__(self, config: GradientConfig, backbone: Backbone, objective: str, *, evaluating: bool) -> None:
        self._config, self._backbone = config, backbone
        field = "eval_phases" if evaluating and config.eval_phases is not None else "phases"
        phases = config.eval_phases if evaluating and config.eval_phases is not None else config.phases
        groups = backbone.groups()
        self._phases: list[_Phase] = []
        for i, phase in enumerate(phases):
            where = f"algorithm.learner.{field}.{i}"
            names = frozenset(name for group in phase.groups for name in _group(groups, group, f"{where}.groups"))
            self._phases.append(
                _Phase(phase, names, find_objective(phase.objective or objective, f"{where}.objective"))
            )
        # For every inner step: the index of its phase, and its number within the phase.
        self._steps = [(index, step) for index, phase in enumerate(phases) for step in range(phase.steps)]
        self.num_steps = len(self._steps)
        self._used_phases = [self._phases[index] for index in dict(self._steps)]  # those with one step or more
        moved = frozenset(name for part in self._used_phases for name in part.names)
        self._fresh = frozenset(groups["head"]) if config.head == "fresh" else frozenset[str]()
        self._moved = tuple(name for name in groups["all"] if name in moved | self._fresh)
        self._uses_adam = any(part.phase.optimizer == "adam" for part in self._used_phases)
        # A mini-batch is normalised by its own statistics, so its features cannot be taken from those of the whole set.
        whole = all(part.phase.batch is None for part in self._used_phases)
        self._keeps_features = whole and frozenset(self._moved) <= frozenset(groups["head"])

    @override
    def init(self, seed: int) -> Params:
        """The backbone's parameters and, for Meta-SGD, a rate for each entry of those that move."""
        params = self._backbone.init(seed)
        if self._config.learned_lr:
            rates = {name: part.phase.lr for part in self._used_phases for name in part.names}
            params |= {
                RATE_PREFIX + name: torch.full_like(params[name], rates[name]) for name in self._moved if name in rates
            }
        return params

    @override
    def start(self, meta: Params, support: Batch) -> FastWeights:
        """The meta-parameters that some phase moves; zeros for a fresh head."""
        moved = {name: meta[name] for name in self._moved if name not in self._fresh}
        features = self._backbone.features(meta, support.inputs) if self._keeps_features else None
        if self._fresh:
            moved |= self._zero_head(meta)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in moved.items()} if self._uses_adam else {}
        return FastWeights(moved, zeros, zeros, features)

    @override
    def stage(self, k: int, num_support: int) -> Stage:
        """The kind is the index of the phase; Adam's scalars are 0 at its first step, else 1, and bias corrections."""
        kind, step = self._steps[k]
        phase = self._phases[kind].phase
        scalars: tuple[float, ...] = ()
        if phase.optimizer == "adam":
            scalars = (float(step > 0), 1 - phase.beta1 ** (step + 1), 1 - phase.beta2 ** (step + 1))
        return Stage(kind, None if phase.batch is None else _rows(num_support, phase.batch, step), scalars)

    @override
    def advance(self, meta: Params, fast: FastWeights, support: Batch, kind: int, scalars: Tensor) -> FastWeights:
        phase, names, objective = self._phases[kind]
        features = fast.features
        fixed = {name: tensor for name, tensor in fast.moved.items() if name not in names}

        def loss(moving: Params) -> Tensor:
            params = {**meta, **fixed, **moving}
            if features is None:
                value = objective(lambda inputs: self._backbone.apply(params, inputs), support)[0]
            else:
                value = objective(lambda _: self._backbone.head(params, features), support)[0]
            for name, tensor in moving.items() if phase.l2sp else ():
                value = value + 0.5 * phase.l2sp * (tensor - meta[name]).square().sum()
            return value

        moving = {name: tensor for name, tensor in fast.moved.items() if name in names}
        return self._update(meta, fast, moving, grad(loss)(moving), phase, scalars)

    def _update(
        self, meta: Params, fast: FastWeights, moving: Params, gradient: Params, phase: Phase, scalars: Tensor
    ) -> FastWeights:
        """SGD, or Adam (Kingma & Ba 2015) whose moments are zero before the phase's first step."""
        first, second, direction = fast.first, fast.second, gradient
        if phase.optimizer == "adam":
            b1, b2 = phase.beta1, phase.beta2
            not_first, correction1, correction2 = scalars
            m = {name: b1 * not_first * first[name] + (1 - b1) * g for name, g in gradient.items()}
            v = {name: b2 * not_first * second[name] + (1 - b2) * g * g for name, g in gradient.items()}
            # The epsilon under the root keeps its derivative finite where a gradient is exactly zero (a dead ReLU).
            direction = {
                name: (m[name] / correction1) / ((v[name] / correction2 + ADAM_EPSILON**2).sqrt() + ADAM_EPSILON)
                for name in gradient
            }
            first, second = {**first, **m}, {**second, **v}
        rates: Mapping[str, Tensor | float] = {
            name: meta[RATE_PREFIX + name] if self._config.learned_lr else phase.lr for name in moving
        }
        moved = {**fast.moved, **{name: moving[name] - rates[name] * direction[name] for name in moving}}
        return FastWeights(moved, first, second, fast.features)

    @override
    def predict(self, meta: Params, fast: FastWeights, support: Batch, inputs: Tensor) -> Tensor:
        return self._backbone.apply({**meta, **fast.moved}, inputs, support.inputs)

    @override
    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        return self._backbone.apply(meta, inputs)

    @override
    def displacement(self, meta: Params, fast: FastWeights) -> Params:
        return {
            name: tensor - fast.moved[name]
            if name in fast.moved and name not in self._fresh
            else torch.zeros_like(tensor)
            for name, tensor in meta.items()
        }

    def _zero_head(self, meta: Params) -> Params:
        outputs, features = self._backbone.num_outputs, meta["head.weight"].shape[1]
        return {
            "head.weight": meta["head.weight"].new_zeros(outputs, features),
            "head.bias": meta["head.bias"].new_zeros(outputs),
        }


def _group(groups: dict[str, tuple[str, ...]], name: str, where: str) -> tuple[str, ...]:
    if name not in groups:
        raise UserError(f"unknown parameter group '{name}'", where=where, allowed=nearest(name, groups))
    return groups[name]


def _rows(available: int, batch: int, k: int) -> tuple[int, ...] | None:
    """Support rows of mini-batch `k`: consecutive rows, modulo their number; None for all rows."""
    return None if batch >= available else tuple((k * batch + i) % available for i in range(batch))
