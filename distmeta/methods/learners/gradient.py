"""Adapt by gradient steps on the support set: the learner of MAML, ANIL, Meta-SGD, Reptile and fine-tuning.

    fast_0     = meta                   (heads of the task's own where `head` is not `meta`; groups of `zeros` are 0)
    fast_{k+1} = fast_k - lr * direction(grad L_support(fast_k))

A phase sets which parameter groups move, for how many steps, at which rate and with which optimizer. MAML (Finn et al.
2017, arXiv 1703.03400) moves all parameters, ANIL (Raghu et al. 2020, arXiv 1909.09157) the head, BOIL (Oh et al. 2021,
arXiv 2008.08882) the body. Meta-SGD and MAML++ learn the rates (`distmeta.methods.learners.rates`). CAVIA (Zintgraf et
al. 2019, arXiv 1810.03642) moves context parameters alone, which are zero before each task. Proto-MAML (Triantafillou
et al. 2020, arXiv 1903.03096) starts from a head that classifies by distance to the class means. Label words (Schick &
Schuetze 2021, arXiv 2001.07676; Brown et al. 2020, arXiv 2005.14165) start from the head of a decoder that gives the
mean log-probability of the words of a class's name to come next, which is linear in the features h up to a constant
that all classes share:

    1/|c| sum_{v in c} log p(v | text) = h . mean_{v in c} E_v - log sum_u exp(h . E_u)      E: output embedding

OML (Javed & White 2019, arXiv 1905.12588) moves the head of all training classes, one example a step; the rows w_c of
the task's classes start from zeros (`head: reset`), so that they have to be learned anew.

Everything is differentiable with respect to `meta`, Adam's moments included. Where no phase moves the body, the
features of a role are computed once for all steps (exact: they do not change), unless a mini-batch is normalised by its
own statistics.

L2-SP (Li, Grandvalet & Davoine 2018, arXiv 1802.01483) adds `l2sp / 2 * |fast - anchor|^2`, where the anchor is the
value before the phase's first step: the meta-parameters in the first phase.

Fine-tuning on many examples takes mini-batches, momentum, weight decay, rates by block or by relative gradient norms
(`distmeta.methods.learners.descent`).

Further meta-parameters may act on what inner steps minimise, and on their rates (`distmeta.methods.learners.inner`).

Deviations from Reptile's code: inner mini-batches cycle through one random order of the support set instead of drawing
a new order for every epoch; Adam's moments are zero before each task, where theirs live on from task to task; queries
are normalised apart from the support set, where theirs share a batch with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import GradientConfig, Phase
from distmeta.core.types import LABELS, Batch, Episode, Params
from distmeta.methods.learners.base import Learner, Proximal, Stage
from distmeta.methods.learners.descent import descend, num_scalars, relative_gradients, step_scalars
from distmeta.methods.learners.differentiate import gradient_of
from distmeta.methods.learners.inner.problem import InnerProblem
from distmeta.methods.learners.own_heads import OwnHeads
from distmeta.methods.learners.per_step import PerStep
from distmeta.methods.learners.phases import ReadyPhase, group_names, ready_phase, rows_of_step, steps_of_epoch
from distmeta.methods.learners.rates import initial_rates, rate_at
from distmeta.methods.objectives import COLLECTED
from distmeta.models.base import HEAD, Backbone
from distmeta.models.network import Network

SETS_ANCHOR, MEASURES = 1, 2
"""Flags of a step's kind: the first step of a later phase with L2-SP, and of an epoch with Auto-RGN."""


class FastWeights(NamedTuple):
    """Adapted state.

    Attributes:
        moved: Values of the parameters that some phase moves, by name.
        first: Adam's first moments, or momentum; empty if no phase keeps either.
        second: Adam's second moments; empty if no phase uses Adam.
        anchor: Values that L2-SP pulls towards; empty if no phase uses it.
        features: [N, D] features of the examples if no phase moves the body, else None.
        factors: Factors of the rates, [] each; empty if no phase uses Auto-RGN.
        stepped: Parameters whose values differ by the number of steps, as they are now.
    """

    moved: Params
    first: Params
    second: Params
    anchor: Params
    features: Tensor | None
    factors: Params
    stepped: Params


class GradientLearner(Learner):
    """Gradient steps in phases.

    Args:
        config: Phases, learned rates, head.
        backbone: The network.
        objective: Name of the objective of phases that name none: the tasks' own.
        where: Field of the configuration that `config` is, for messages.

    Raises:
        UserError: An unknown parameter group, head or objective is named, or the head needs words that the network does
            not predict.
    """

    def __init__(
        self, config: GradientConfig, backbone: Backbone, objective: str, where: str = "algorithm.learner"
    ) -> None:
        super().__init__(backbone)
        groups = backbone.groups()
        self._per_step = PerStep(config.per_step, groups, config.num_steps, f"{where}.per_step")
        frozen = {name for group in config.frozen for name in group_names(groups, group, f"{where}.frozen")}
        frozen |= set(self._per_step.names)
        self._phases = [
            ready_phase(
                phase,
                i,
                groups,
                backbone.blocks(),
                objective,
                self._field(where, i),
                frozen,
                learned=bool(config.learned_lr),
            )
            for i, phase in enumerate(config.phases)
        ]
        self._inner = InnerProblem(config.inner, groups, f"{where}.inner")
        used = [phase for phase in self._phases if phase.config.steps]
        self.roles = tuple(dict.fromkeys(phase.config.role for phase in used)) or Learner.roles
        moved = frozenset(name for phase in used for name in phase.rates)
        self._heads = OwnHeads(config, backbone, used, where)
        self._zeros = frozenset(name for group in config.zeros for name in group_names(groups, group, f"{where}.zeros"))
        self.fresh = self._zeros | self._heads.fresh
        self._granularity = config.learned_lr or "layer"
        own = moved | self.fresh | (self._heads.names if self._heads.resets else frozenset())
        self._moved = tuple(name for name in groups["all"] if name in own)
        self._uses_adam = any(phase.config.optimizer == "adam" for phase in used)
        self._keeps_moments = any(num_scalars(phase.config) for phase in used)
        self._uses_factors = any(phase.config.auto_rgn for phase in used)
        self._uses_anchor = any(self._has_anchor(phase.config) for phase in used)
        # A mini-batch is normalised by its own statistics, so its features cannot be taken from those of the whole set.
        whole = backbone.is_row_wise or all(phase.config.batch is None for phase in used)
        still = not (backbone.buffers() or backbone.is_random or objective in COLLECTED)
        still = still and not self._per_step.names
        self._keeps_features = whole and still and len(self.roles) == 1 and frozenset(self._moved) <= self._heads.names
        self.reads_features_only = self._keeps_features and not self._heads.need_words
        if self._heads.need_words:
            self.roles = (*self.roles, LABELS)

    def _has_anchor(self, phase: Phase) -> bool:
        """Whether a phase pulls to the values before it."""
        return bool(phase.l2sp) or self._inner.needs_anchor

    def _field(self, where: str, index: int) -> str:
        """Field of the configuration that a phase is, for messages."""
        return f"{where}.phases.{index}"

    @override
    def init(self, seed: int) -> Params:
        """The backbone's parameters without heads that tasks make, those of `zeros` zero; and what acts on steps."""
        params = self.backbone.init(seed)
        if self._heads.made:
            params = {name: tensor for name, tensor in params.items() if name not in self._heads.fresh}
        params |= {name: torch.zeros_like(params[name]) for name in params if name in self._zeros}
        for phase in self._phases:
            params |= {
                rate: initial_rates(self._granularity, params[name], phase.rates[name], phase.config.steps)
                for name, rate in phase.learned_rates.items()
                if phase.config.steps
            }
        params = self._per_step.init(params)
        return params | self._inner.init(seed, next(iter(params.values())).dtype)

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> FastWeights:
        """The meta-parameters that some phase moves; a head of its own for the task."""
        moved = {name: meta[name] for name in self._moved if name not in self.fresh}
        needs_features = self._keeps_features or self._heads.need_features
        stepped = self._per_step.before_steps(meta)
        features = net.features({**meta, **stepped}, task[self.roles[0]].inputs) if needs_features else None
        moved |= {name: torch.zeros_like(meta[name]) for name in self._moved if name in self._zeros}
        moved |= self._heads.start(meta, features, task, self.roles[0])
        features = features if self._keeps_features else None
        zeros = {name: torch.zeros_like(tensor) for name, tensor in moved.items()} if self._keeps_moments else {}
        anchor = dict(moved) if self._uses_anchor else {}
        factors = {name: tensor.new_ones(()) for name, tensor in moved.items()} if self._uses_factors else {}
        return FastWeights(moved, zeros, zeros if self._uses_adam else {}, anchor, features, factors, stepped)

    @override
    def stages(self, rows: Mapping[str, int]) -> Sequence[Stage]:
        """The stages of all phases.

        The kind of a step is the number of its phase; steps that move the anchor of L2-SP or measure the factors of
        Auto-RGN have kinds of their own. First come the scalars of the optimizer (`step_scalars`), then the rows of a
        mini-batch whose features are known, then the number of the step among all where parameters differ by it; the
        last scalar is its number in the phase where rates differ by step.
        """
        return [stage for index in range(len(self._phases)) for stage in self._stages_of(index, rows)]

    def _stages_of(self, index: int, rows: Mapping[str, int]) -> Iterator[Stage]:
        phase, before = self._phases[index].config, sum(phase.config.steps for phase in self._phases[:index])
        epoch = steps_of_epoch(phase, rows[phase.role]) if phase.steps else 1
        for step in range(phase.steps):
            scalars, selected = step_scalars(phase, step), rows_of_step(phase, index, rows[phase.role], step)
            scalars += tuple(map(float, selected)) if self._keeps_features and selected is not None else ()
            scalars += (float(before + step),) if self._per_step.names else ()
            scalars += (float(step),) if self._granularity == "layer_step" else ()
            flags = SETS_ANCHOR if self._has_anchor(phase) and index > 0 and step == 0 else 0
            flags |= MEASURES if phase.auto_rgn and step % epoch == 0 else 0
            yield Stage(index + len(self._phases) * flags, phase.role, selected, scalars)

    @override
    def advance(
        self, net: Network, meta: Params, fast: FastWeights, batch: Batch, kind: int, scalars: Tensor
    ) -> FastWeights:
        flags, index = divmod(kind, len(self._phases))
        phase = self._phases[index]
        moving = {name: tensor for name, tensor in fast.moved.items() if name in phase.rates}
        if flags & SETS_ANCHOR:
            fast = fast._replace(anchor={**fast.anchor, **moving})
        known = fast._replace(features=self._features_of(fast, phase, scalars))
        gradient, net.buffers = self._gradient(net, meta, known, batch, phase)(moving)
        if flags & MEASURES:
            fast = fast._replace(factors={**fast.factors, **relative_gradients(moving, gradient)})
        fast = self._update(meta, fast, moving, gradient, phase, scalars)
        if self._per_step.names:
            number = scalars[-2 if self._granularity == "layer_step" else -1]
            fast = fast._replace(stepped=self._per_step.after_step(meta, number))
        return fast

    def _gradient(
        self, net: Network, meta: Params, fast: FastWeights, batch: Batch, phase: ReadyPhase
    ) -> Callable[[Params], tuple[Params, Params]]:
        """Values of the parameters that a phase moves -> the gradient of what it minimises, and running statistics."""
        if not self._inner.by_example:
            return gradient_of(self._loss(net, meta, fast, batch, phase))

        def outputs(moving: Params) -> tuple[Tensor, Params]:
            forward, inner = self._forward(net, meta, fast, moving, batch, phase)
            return forward(batch.inputs), inner.buffers

        def penalised(value: Tensor, moving: Params) -> Tensor:
            return self._penalised(value, meta, fast, moving, phase)

        return lambda moving: self._inner.gradient(meta, moving, outputs, phase.objective, batch, penalised)

    def _features_of(self, fast: FastWeights, phase: ReadyPhase, scalars: Tensor) -> Tensor | None:
        """The features of a step's examples, if they are known."""
        if fast.features is None or phase.config.batch is None:
            return fast.features
        first, last = num_scalars(phase.config), len(scalars) - (self._granularity == "layer_step")
        # The rows are data, so that all steps of a phase share one compiled graph; without rows, they are all.
        rows = scalars[first:last].long()
        return fast.features.index_select(0, rows) if len(rows) else fast.features

    def _loss(
        self, net: Network, meta: Params, fast: FastWeights, batch: Batch, phase: ReadyPhase
    ) -> Callable[[Params], tuple[Tensor, Params]]:
        """What a phase minimises: values of the parameters that it moves -> the loss, and running statistics."""

        def loss(moving: Params) -> tuple[Tensor, Params]:
            forward, inner = self._forward(net, meta, fast, moving, batch, phase)
            return self._penalised(phase.objective(forward, batch)[0], meta, fast, moving, phase), inner.buffers

        return loss

    def _forward(
        self, net: Network, meta: Params, fast: FastWeights, moving: Params, batch: Batch, phase: ReadyPhase
    ) -> tuple[Callable[[Tensor], Tensor], Network]:
        """The network in an inner step: a function of inputs, and what has its running statistics."""
        fixed = {name: tensor for name, tensor in fast.moved.items() if name not in phase.rates}
        params, inner, head = {**meta, **fast.stepped, **fixed, **moving}, net.fork(), phase.config.head

        def forward(inputs: Tensor) -> Tensor:
            if fast.features is not None and inputs is batch.inputs:
                return inner.head(params, fast.features, head)
            return inner(params, inputs, head=head)

        return forward, inner

    def _penalised(self, value: Tensor, meta: Params, fast: FastWeights, moving: Params, phase: ReadyPhase) -> Tensor:
        """An inner loss with L2-SP, and the penalties of `inner`."""
        for name, tensor in moving.items() if phase.config.l2sp else ():
            value = value + 0.5 * phase.config.l2sp * (tensor - fast.anchor[name]).square().sum()
        return self._inner.penalised(value, meta, moving, fast.anchor)

    def _update(
        self, meta: Params, fast: FastWeights, moving: Params, gradient: Params, phase: ReadyPhase, scalars: Tensor
    ) -> FastWeights:
        direction, first, second = descend(phase.config, moving, gradient, fast.first, fast.second, scalars)
        learned = phase.learned_rates
        rates: Mapping[str, Tensor | float] = {
            name: rate_at(self._granularity, meta[learned[name]], scalars) if learned else phase.rates[name]
            for name in moving
        }
        rates = self._inner.rates(meta, rates)
        if phase.config.auto_rgn:
            rates = {name: rate * fast.factors[name] for name, rate in rates.items()}
        moved = {**fast.moved, **{name: moving[name] - rates[name] * direction[name] for name in moving}}
        return fast._replace(moved=moved, first=first, second=second)

    @override
    def predict(
        self, net: Network, meta: Params, fast: FastWeights, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        return net({**meta, **fast.stepped, **fast.moved}, inputs, task[self.roles[0]].inputs, head=head)

    @override
    def forward(self, net: Network, meta: Params, inputs: Tensor, *, head: str = HEAD) -> Tensor:
        return net({**meta, **self._per_step.before_steps(meta)}, inputs, head=head)

    @override
    def displacement(self, meta: Params, fast: FastWeights) -> Params:
        return {
            name: tensor - fast.moved[name]
            if name in fast.moved and name not in self.fresh
            else torch.zeros_like(tensor)
            for name, tensor in meta.items()
        }

    @override
    def proximal(self, fast: FastWeights) -> Proximal:
        phase = self._phases[0].config
        return Proximal(fast.moved, phase.lr * phase.l2sp)
