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
from distmeta.errors import UserError, nearest
from distmeta.learners.base import Learner
from distmeta.learners.objectives import Objective, find_objective
from distmeta.models.base import Backbone
from distmeta.types import Batch, Params

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
        self._schedule: list[tuple[Phase, int, frozenset[str], Objective]] = []
        for i, phase in enumerate(phases):
            where = f"algorithm.learner.{field}.{i}"
            names = frozenset(name for group in phase.groups for name in _group(groups, group, f"{where}.groups"))
            goal = find_objective(phase.objective or objective, f"{where}.objective")
            self._schedule += [(phase, first, names, goal) for first in range(phase.steps)]
        self.num_steps = len(self._schedule)
        union = frozenset().union(*(names for _, _, names, _ in self._schedule)) if self._schedule else frozenset()
        fresh = frozenset(groups["head"]) if config.head == "fresh" else frozenset()
        self._fresh = fresh
        self._moved = tuple(name for name in groups["all"] if name in union | fresh)
        self._uses_adam = any(phase.optimizer == "adam" for phase, _, _, _ in self._schedule)
        # Mini-batches normalise themselves: with them, features depend on the step, and are not kept.
        whole = all(phase.batch is None for phase, _, _, _ in self._schedule)
        self._body_fixed = whole and frozenset(self._moved) <= frozenset(groups["head"])

    def init(self, seed: int) -> Params:
        """The backbone's parameters and, for Meta-SGD, a rate for each entry of those that move."""
        params = self._backbone.init(seed)
        if self._config.learned_lr:
            rates = {name: phase.lr for phase, _, names, _ in self._schedule for name in names}
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

    def step(self, meta: Params, fast: FastWeights, support: Batch, k: int) -> FastWeights:
        """One inner step of the phase that `k` falls into."""
        phase, k_in_phase, names, objective = self._schedule[k]
        rows = _rows(support.inputs.shape[0], phase.batch, k_in_phase)
        batch = support if rows is None else support.map(lambda tensor: tensor[rows])
        features = fast.features if fast.features is None or rows is None else fast.features[rows]
        still = {name: tensor for name, tensor in fast.moved.items() if name not in names}

        def loss(moving: Params) -> Tensor:
            params = {**meta, **still, **moving}
            if features is None:
                value = objective(lambda inputs: self._backbone.apply(params, inputs), batch)[0]
            else:
                value = objective(lambda _: self._backbone.head(params, features), batch)[0]
            for name, tensor in moving.items() if phase.l2sp else ():
                value = value + 0.5 * phase.l2sp * (tensor - meta[name]).square().sum()
            return value

        moving = {name: tensor for name, tensor in fast.moved.items() if name in names}
        return self._move(meta, fast, moving, grad(loss)(moving), phase, k_in_phase)

    def _move(
        self, meta: Params, fast: FastWeights, moving: Params, gradient: Params, phase: Phase, k: int
    ) -> FastWeights:
        """Apply SGD, or Adam (Kingma & Ba 2015) with its moments starting at the phase's first step."""
        first, second, direction = fast.first, fast.second, gradient
        if phase.optimizer == "adam":
            b1, b2 = phase.beta1, phase.beta2
            m = {name: (b1 * first[name] if k else 0.0) + (1 - b1) * g for name, g in gradient.items()}
            v = {name: (b2 * second[name] if k else 0.0) + (1 - b2) * g * g for name, g in gradient.items()}
            # The shift under the root keeps its derivative finite where a gradient is exactly zero (a dead ReLU).
            direction = {
                name: (m[name] / (1 - b1 ** (k + 1)))
                / ((v[name] / (1 - b2 ** (k + 1)) + ADAM_EPSILON**2).sqrt() + ADAM_EPSILON)
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


def _rows(available: int, batch: int | None, k: int) -> list[int] | None:
    """Support rows of mini-batch `k`: consecutive rows, wrapping round; None for all of them."""
    if batch is None or batch >= available:
        return None
    return [(k * batch + i) % available for i in range(batch)]
