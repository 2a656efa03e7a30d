"""Adapt by gradient steps on the support set: one learner for MAML, ANIL, Meta-SGD, Reptile, fine-tuning and their kin.

    fast_0     = meta                                   (head of zeros where `head = fresh`)
    fast_{k+1} = fast_k - lr * direction(grad L_support(fast_k))

A phase says which parameter groups move, for how many steps, at which rate and by which optimizer:
MAML (Finn et al. 2017, arXiv 1703.03400) moves all, ANIL (Raghu et al. 2020, arXiv 1909.09157) the head,
Meta-SGD (Li et al. 2017, arXiv 1707.09835) all with learned rates, one for each entry.

Everything is differentiable with respect to `meta`, Adam's moments included. Where no phase moves the body and every
step takes the whole support set, its features are computed once for all steps (exact: they do not change).

Deviation from Reptile's code: inner mini-batches walk through one random order of the support set again and again
instead of drawing a new order for every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad

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
        moved: The parameters that some phase moves, by name.
        first, second: Adam's moments (empty where no phase uses Adam).
        features: [N, D] support features where the body stays fixed, else None.
    """

    moved: Params
    first: Params
    second: Params
    features: Tensor | None


class _Phase(NamedTuple):
    """A phase, the parameters that it moves and what it minimises."""

    phase: Phase
    names: frozenset[str]
    objective: Objective


class GradientLearner(Learner):
    """See the module.

    Args:
        config: Phases, rates, head.
        backbone: The network.
        objective: Name of the tasks' own objective, for phases that name none.
        evaluating: Use `eval_phases`.
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
        self._position = [(kind, first) for kind, phase in enumerate(phases) for first in range(phase.steps)]
        self.num_steps = len(self._position)
        taken = self._taken = [self._phases[kind] for kind in dict(self._position)]
        union = frozenset(name for part in taken for name in part.names)
        fresh = frozenset(groups["head"]) if config.head == "fresh" else frozenset()
        self._fresh = fresh
        self._moved = tuple(name for name in groups["all"] if name in union | fresh)
        self._uses_adam = any(part.phase.optimizer == "adam" for part in taken)
        # Mini-batches normalise themselves: with them, features depend on the step, and are not kept.
        whole = all(part.phase.batch is None for part in taken)
        self._body_fixed = whole and frozenset(self._moved) <= frozenset(groups["head"])

    def init(self, seed: int) -> Params:
        """The backbone's parameters and, for Meta-SGD, a rate for each entry of those that move."""
        params = self._backbone.init(seed)
        if self._config.learned_lr:
            rates = {name: part.phase.lr for part in self._taken for name in part.names}
            params |= {
                RATE_PREFIX + name: torch.full_like(params[name], rates[name]) for name in self._moved if name in rates
            }
        return params

    def start(self, meta: Params, support: Batch) -> FastWeights:
        """The meta-parameters that will move; zeros for a fresh head."""
        moved = {name: meta[name] for name in self._moved if name not in self._fresh}
        features = self._backbone.features(meta, support.inputs) if self._body_fixed else None
        if self._fresh:
            moved |= self._zero_head(meta)
        zeros = {name: torch.zeros_like(tensor) for name, tensor in moved.items()} if self._uses_adam else {}
        return FastWeights(moved, zeros, zeros, features)

    def stage(self, k: int, num_support: int) -> Stage:
        """Kinds are the phases; the scalars of an Adam phase are whether moments count and both bias corrections."""
        kind, first = self._position[k]
        phase = self._phases[kind].phase
        scalars: tuple[float, ...] = ()
        if phase.optimizer == "adam":
            scalars = (float(first > 0), 1 - phase.beta1 ** (first + 1), 1 - phase.beta2 ** (first + 1))
        return Stage(kind, None if phase.batch is None else _rows(num_support, phase.batch, first), scalars)

    def advance(self, meta: Params, fast: FastWeights, support: Batch, kind: int, scalars: Tensor) -> FastWeights:
        """One inner step of phase `kind`."""
        phase, names, objective = self._phases[kind]
        features = fast.features
        still = {name: tensor for name, tensor in fast.moved.items() if name not in names}

        def loss(moving: Params) -> Tensor:
            params = {**meta, **still, **moving}
            if features is None:
                value = objective(lambda inputs: self._backbone.apply(params, inputs), support)[0]
            else:
                value = objective(lambda _: self._backbone.head(params, features), support)[0]
            for name, tensor in moving.items() if phase.l2sp else ():
                value = value + 0.5 * phase.l2sp * (tensor - meta[name]).square().sum()
            return value

        moving = {name: tensor for name, tensor in fast.moved.items() if name in names}
        return self._move(meta, fast, moving, grad(loss)(moving), phase, scalars)

    def _move(
        self, meta: Params, fast: FastWeights, moving: Params, gradient: Params, phase: Phase, scalars: Tensor
    ) -> FastWeights:
        """Apply SGD, or Adam (Kingma & Ba 2015) with its moments starting at the phase's first step."""
        first, second, direction = fast.first, fast.second, gradient
        if phase.optimizer == "adam":
            b1, b2 = phase.beta1, phase.beta2
            counts, correction1, correction2 = scalars
            m = {name: b1 * counts * first[name] + (1 - b1) * g for name, g in gradient.items()}
            v = {name: b2 * counts * second[name] + (1 - b2) * g * g for name, g in gradient.items()}
            # The shift under the root keeps its derivative finite where a gradient is exactly zero (a dead ReLU).
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

    def predict(self, meta: Params, fast: FastWeights, support: Batch, inputs: Tensor) -> Tensor:
        """[B, O] outputs with the moved parameters in place of the meta-parameters."""
        return self._backbone.apply({**meta, **fast.moved}, inputs, support.inputs)

    def forward(self, meta: Params, inputs: Tensor) -> Tensor:
        """[B, O] outputs of the meta-parameters."""
        return self._backbone.apply(meta, inputs)

    def displacement(self, meta: Params, fast: FastWeights) -> Params:
        """`meta - fast` where adaptation moves, zero elsewhere."""
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
    """Support rows of mini-batch `k`: consecutive rows, wrapping round; None for all of them."""
    return None if batch >= available else tuple((k * batch + i) % available for i in range(batch))
