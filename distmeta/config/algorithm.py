"""Methods: how one task is adapted (learner), how the outer signal is computed from adapted tasks (estimator), and what
the outer loss is made of (terms).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import InnerSteps, Text
from distmeta.config.estimators import BackpropConfig, EstimatorConfig
from distmeta.config.gradient import GradientConfig
from distmeta.config.learners import LearnerConfig
from distmeta.config.python import ObjectiveName


class Term(Frozen):
    """A term of the outer loss.

    Attributes:
        role: Role of the task's examples.
        objective: Name of the loss; None takes the objective of the tasks.
        weight: Weight in the sum of the terms.
        at: Where it is scored: with the adapted state after the last inner step (`last`) or after each one (`each`),
            or with the meta-parameters as they are (`meta`: joint training).
        head: Head of the network that it is scored through.
        reverse: At `meta`: the head minimises the term and the body maximises it, as its gradient is multiplied by
            minus this factor (gradient reversal, Ganin et al. 2016). None: both minimise it.
    """

    role: Text = "query"
    objective: ObjectiveName | None = None
    weight: float = 1.0
    at: Literal["last", "each", "meta"] = "last"
    head: Text = "head"
    reverse: NonNegativeFloat | None = None

    @model_validator(mode="after")
    def _body_is_that_of_the_meta_parameters(self) -> Self:
        if self.reverse is not None and self.at != "meta":
            raise ValueError(
                f"reverse {self.reverse:g} needs a term at 'meta', not at '{self.at}'; use null, or 'meta'"
            )
        return self


class EvaluateConfig(Frozen):
    """How tasks are adapted at evaluation, where that differs from training.

    Attributes:
        steps: Inner steps of the last phase (Reptile takes more at evaluation).
        learner: Another learner.
        head: Head of the network that queries are scored through; None takes that of the first term on queries, those
            after adaptation before those at `meta`; without such a term, the last one that adaptation uses.
        terms: What is scored besides the queries by the tasks' own objective, which has weight 1. Terms of weight 0 are
            reported and leave the loss as it is.
        stream: Queries are a stream of batches, those of the inner steps: each batch is scored by the state before its
            own step, or after it. None: all queries are scored by the state after each number of steps.
    """

    steps: InnerSteps | None = None
    learner: LearnerConfig | None = None
    head: Text | None = None
    terms: tuple[Term, ...] = Field((), max_length=100)
    stream: Literal["before", "after"] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.steps is not None and self.learner is not None:
            raise ValueError("steps and learner exclude each other: the learner sets its own steps")
        return self

    @field_validator("terms")
    @classmethod
    def _score_adapted_states(cls, terms: tuple[Term, ...]) -> tuple[Term, ...]:
        if any(term.at != "last" for term in terms):
            raise ValueError("evaluation scores every number of inner steps by itself; allowed: terms at 'last'")
        return terms


class AlgorithmConfig(Frozen):
    """A method: learner, estimator and terms. The presets in `distmeta.methods` have the papers' settings.

    Attributes:
        method: The method's name in reports.
        learner: How one task is adapted.
        estimator: How the outer signal is computed from adapted tasks.
        terms: What the outer loss is made of.
        evaluate: What differs at evaluation.
        fixed: Parameter groups of the network that are not meta-learned: they keep their initial values (of `seed`, or
            of `train.init_from`). Inner steps may move them nevertheless, for one task.
    """

    method: Text = "maml"
    learner: LearnerConfig = GradientConfig()
    estimator: EstimatorConfig = BackpropConfig()
    terms: tuple[Term, ...] = Field((Term(),), min_length=1, max_length=100)
    evaluate: EvaluateConfig = EvaluateConfig()
    fixed: tuple[Text, ...] = Field((), max_length=1000)

    @property
    def adapts(self) -> bool:
        """Whether training adapts to tasks at all."""
        return any(term.at != "meta" for term in self.terms)

    def evaluated_learner(self) -> LearnerConfig:
        """The learner of evaluation tasks."""
        if self.evaluate.steps is not None:
            return self.learner.with_steps(self.evaluate.steps)
        return self.evaluate.learner or self.learner

    @property
    def evaluated_head(self) -> str:
        """The head that evaluation tasks are scored through."""
        if self.evaluate.head is not None:
            return self.evaluate.head
        of_terms = [
            term.head for term in sorted(self.terms, key=lambda term: term.at == "meta") if term.role == "query"
        ]
        used = [head for _, head, _ in self.evaluated_learner().uses]
        return (*of_terms, *reversed(used), "head")[0]

    @property
    def windows(self) -> int:
        """Outer steps that a training task lasts: parts that its inner steps are cut into."""
        return 1 if self.estimator.window is None else self.learner.num_steps // self.estimator.window

    def _check_window(self, window: int) -> None:
        steps = self.learner.num_steps
        if not steps or steps % window:
            raise ValueError(
                f"estimator.window {window} does not divide the {steps} inner steps of the learner; use a divisor"
            )
        if any(term.at != "each" for term in self.terms):
            raise ValueError(
                "estimator.window scores what lies within a window; use terms at 'each' inner step, or null"
            )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        learner, estimator = self.learner, self.estimator
        if self.evaluate.steps is not None and not learner.is_stepwise:
            raise ValueError(f"evaluate.steps needs a learner with inner steps, but learner.kind is '{learner.kind}'")
        if self.evaluate.stream is not None and not self.evaluated_learner().num_steps:
            raise ValueError(
                f"evaluate.stream '{self.evaluate.stream}' scores a batch for each inner step, but there are no steps; "
                "use null, or a learner with inner steps"
            )
        if estimator.needs_steps and not self.adapts:
            raise ValueError(
                f"terms score the meta-parameters alone (at 'meta'), so there is no adaptation for estimator.kind "
                f"'{estimator.kind}'; use 'backprop'"
            )
        if any(term.at == "each" for term in self.terms) and not learner.num_steps:
            raise ValueError(f"a term at 'each' inner step needs one, but learner.kind '{learner.kind}' takes none")
        if estimator.needs_proximal and learner.proximal is None:
            raise ValueError(
                f"estimator.kind '{estimator.kind}' needs an inner problem with a proximal term: learner.kind "
                "'newton_cg', or 'gradient' with head 'meta' and one phase that has l2sp > 0, steps of sgd, one rate "
                "that is not learned, and no batch"
            )
        if estimator.needs_proximal and any(term.at == "each" for term in self.terms):
            raise ValueError(
                f"a term at 'each' inner step scores the way to the solution, which estimator.kind '{estimator.kind}' "
                "does not differentiate; use 'last', or estimator.kind 'backprop'"
            )
        if estimator.weighs_each and not any(term.at == "each" for term in self.terms):
            raise ValueError("estimator.each_until weighs terms at 'each' inner step, but there is none; use null")
        if (
            learner.fixes_steps
            and self.evaluate.steps is not None
            and self.evaluated_learner().num_steps != learner.num_steps
        ):
            raise ValueError(
                "learner.learned_lr 'layer_step' and learner.per_step have values for each inner step of training, so "
                "evaluate.steps cannot differ from them; use null, or learned_lr 'layer' and per_step []"
            )
        if learner.learns_inner and not estimator.reaches_steps:
            raise ValueError(
                "meta-parameters that act through inner steps alone (learner.learned_lr, learner.per_step, "
                f"learner.inner, learned optimizers) get no signal from this estimator ('{estimator.kind}'); use "
                "estimator.kind 'backprop' with order 2, or 'evolution'"
            )
        if estimator.window is not None:
            self._check_window(estimator.window)
        return self
