"""Build a method from a configuration: learner and estimator over a backbone that fits the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from distmeta.config import AlgorithmConfig, RunConfig, Term
from distmeta.core.errors import UserError, nearest
from distmeta.core.tensors import all_finite
from distmeta.core.types import QUERY, Params, TokenIds
from distmeta.methods.estimators import build_estimator
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.heads import check_heads, eval_heads, field_of_evaluation, outputs_of_role, train_heads
from distmeta.methods.interaction import check_interactive
from distmeta.methods.learners import build_learner
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.phases import group_names
from distmeta.methods.objectives import COLLECTED, find_objective
from distmeta.methods.terms import OuterTerm
from distmeta.models import build_backbone
from distmeta.models.base import HEAD
from distmeta.tasks.base import TaskSignature


@dataclass(frozen=True)
class Algorithm:
    """A method, ready to run.

    Attributes:
        learner: How training tasks are adapted.
        estimator: How the outer signal is computed.
        terms: The outer loss.
        evaluators: Learners for evaluation tasks, by protocol (`distmeta.models.base`), the preferred one first.
        scored: What evaluation tasks are scored on: the queries by the tasks' own objective through one head, then
            further terms.
    """

    learner: Learner
    estimator: Estimator
    terms: tuple[OuterTerm, ...]
    evaluators: dict[str, Learner]
    scored: tuple[OuterTerm, ...]

    @property
    def eval_head(self) -> str:
        """Head that evaluation tasks are scored through."""
        return self.scored[0].head

    @property
    def train_roles(self) -> tuple[str, ...]:
        """Roles of training tasks that the method reads."""
        adapts = any(term.at != "meta" for term in self.terms)
        return _unique((*(self.learner.roles if adapts else ()), *(term.role for term in self.terms)))

    @property
    def eval_roles(self) -> tuple[str, ...]:
        """Roles of evaluation tasks that the method reads."""
        adapted_to = (role for learner in self.evaluators.values() for role in learner.roles)
        return _unique((*adapted_to, *(term.role for term in self.scored)))

    def roles(self, split: str) -> tuple[str, ...]:
        """Roles that the method reads of tasks of a split."""
        return self.train_roles if split == "train" else self.eval_roles


def dtype_of(config: RunConfig) -> torch.dtype:
    """The floating-point type of a run."""
    return {"float32": torch.float32, "float64": torch.float64}[config.engine.dtype]


def build_algorithm(config: RunConfig, tasks: TaskSignature) -> Algorithm:
    """Build the parts of a run's method.

    Raises:
        UserError: A parameter group, a role, a head or an objective is unknown, or the parts do not fit the tasks.
    """
    settings, heads = config.algorithm, train_heads(config, tasks)
    backbone = build_backbone(config.model, tasks.input_shape, heads, dtype_of(config))
    _check_tokens(backbone.tokens, tasks.tokens)
    learner = build_learner(settings.learner, backbone, tasks.objective)
    learner.asks = tasks.objective in COLLECTED
    check_interactive(settings, learner, in_order=tasks.in_order)
    groups = backbone.groups()
    learner.fixed = frozenset(
        name for group in settings.fixed for name in group_names(groups, group, "algorithm.fixed")
    )
    terms = _outer_terms(settings.terms, tasks, "algorithm.terms")
    _check_terms(terms, learner)
    check_heads(terms, learner, "algorithm.terms")
    if settings.estimator.is_exact and settings.learner.num_steps and "second_order" in backbone.limits:
        raise UserError(
            f"the exact gradient needs second derivatives, which the network lacks ({backbone.limits['second_order']})",
            where="algorithm.estimator",
            allowed="kind 'backprop' with order 1, or another network",
        )
    if settings.estimator.is_exact and not settings.estimator.needs_proximal and learner.step_order > 1:
        raise UserError(
            "the exact gradient through Newton steps needs third derivatives, which torch gets wrong for batch norm",
            where="algorithm.estimator",
            allowed="kind 'implicit', or 'backprop' with order 1",
        )
    evaluators = build_evaluators(config, tasks)
    head = _evaluated_head(settings, evaluators)
    _check_evaluators(evaluators, learner, tasks, head, field_of_evaluation(config))
    _check_names(config, tasks.tokens)
    queries = OuterTerm(QUERY, find_objective(tasks.objective, "tasks"), head=head)
    scored = (queries, *_further_terms(settings, tasks, evaluators))
    return Algorithm(learner, build_estimator(settings.estimator), terms, evaluators, scored)


def check_params(config: RunConfig, tasks: TaskSignature, params: Params, buffers: Params, where: str) -> None:
    """Check that parameters and running statistics from outside are those of a configuration: by names, shapes and
    types, and finite.

    Raises:
        UserError: They are not.
    """
    learner = build_algorithm(config, tasks).learner
    expected, given = {**learner.init(config.seed), **learner.backbone.buffers()}, {**params, **buffers}
    if expected.keys() != given.keys():
        missing, extra = sorted(expected.keys() - given.keys())[:3], sorted(given.keys() - expected.keys())[:3]
        raise UserError(
            f"its parameters are not those of its configuration: {missing} are missing, {extra} are unknown",
            where=where,
            allowed="a checkpoint as it was saved, and changes that keep the network",
        )
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape or given[name].dtype != tensor.dtype:
            raise UserError(
                f"parameter '{name}' is {given[name].dtype} {list(given[name].shape)}",
                where=where,
                allowed=f"{tensor.dtype} {list(tensor.shape)}, as the configuration says",
            )
    if not all_finite(given):
        raise UserError("a parameter is infinite or not a number", where=where, allowed="another checkpoint of the run")


def build_evaluators(config: RunConfig, tasks: TaskSignature) -> dict[str, Learner]:
    """Build the learner of evaluation tasks under each protocol that the network can follow.

    Its network has the heads of training; those that evaluation goes through have the outputs of evaluation tasks.
    """
    settings, where = config.algorithm, field_of_evaluation(config)
    heads = {**train_heads(config, tasks), **eval_heads(config, tasks)}
    backbone = build_backbone(config.model, tasks.input_shape, heads, dtype_of(config))
    return {
        protocol: build_learner(settings.evaluated_learner(), backbone.under(protocol), tasks.objective, where)
        for protocol in backbone.protocols
    }


def protocol_of(algorithm: Algorithm) -> str:
    """The protocol of a run's headline score: the one that it trains under."""
    return algorithm.learner.backbone.protocol


def _evaluated_head(settings: AlgorithmConfig, evaluators: Mapping[str, Learner]) -> str:
    """The head that queries are scored through: of a learner with heads of its own, its predictions."""
    has_own = any(learner.own_heads is not None for learner in evaluators.values())
    return HEAD if has_own and settings.evaluate.head is None else settings.evaluated_head


def _outer_terms(terms: Sequence[Term], tasks: TaskSignature, where: str) -> tuple[OuterTerm, ...]:
    return tuple(
        OuterTerm(
            term.role,
            find_objective(term.objective or tasks.objective, f"{where}.{position}.objective"),
            term.weight,
            term.at,
            term.head,
            term.reverse,
        )
        for position, term in enumerate(terms)
    )


def _further_terms(
    settings: AlgorithmConfig, tasks: TaskSignature, evaluators: Mapping[str, Learner]
) -> tuple[OuterTerm, ...]:
    """What evaluation scores besides the queries; the roles must have as many outputs as these."""
    where, evaluator = "algorithm.evaluate.terms", next(iter(evaluators.values()))
    terms = _outer_terms(settings.evaluate.terms, tasks, where)
    for position, term in enumerate(terms):
        outputs = outputs_of_role(tasks.train_outputs, term.role, f"{where}.{position}.role")
        if outputs != tasks.train_outputs[QUERY]:
            what = f"role '{term.role}' has {outputs} outputs, but queries have {tasks.train_outputs[QUERY]}"
            raise UserError(what, where=f"{where}.{position}.role", allowed="query, support")
        if evaluator.own_heads is None and term.head not in evaluator.backbone.heads:
            allowed = nearest(term.head, evaluator.backbone.heads)
            raise UserError(f"no head '{term.head}'", where=f"{where}.{position}.head", allowed=allowed)
    check_heads(terms, evaluator, where)
    return terms


def _check_terms(terms: Sequence[OuterTerm], learner: Learner) -> None:
    """Check that what is scored without adaptation has a head of its own among the meta-parameters."""
    names: Mapping[str, object] | None = None
    for position, term in enumerate(terms):
        if term.at != "meta":
            continue
        names = learner.init(0) if names is None else names
        if not names.keys() >= set(learner.backbone.head_names(term.head)):
            raise UserError(
                f"'{term.role}' is scored without adaptation, but the learner has no head '{term.head}'",
                where=f"algorithm.terms.{position}.at",
                allowed="last, or a learner with a head (gradient)",
            )


def _check_tokens(known: TokenIds | None, given: TokenIds | None) -> None:
    """Check that the network knows the token ids of the tasks."""
    if known is None or given is None:
        return
    if given.count > known.count:
        what = f"its {given.count} token ids are more than the {known.count} that the network knows"
        raise UserError(what, where="tasks.tokenizer", allowed="the network's own tokenizer")
    if given.pad_id != known.pad_id:
        what = f"the network takes token {known.pad_id} for padding, but the tokenizer pads with {given.pad_id}"
        raise UserError(what, where="model.pad_id", allowed=str(given.pad_id))


def _check_names(config: RunConfig, given: TokenIds | None) -> None:
    """Check that a word may come behind the texts of tasks, where the names of classes are scored as such."""
    learners = (config.algorithm.learner, config.algorithm.evaluated_learner())
    if given is not None and given.num_closing and any(learner.needs_names for learner in learners):
        what = f"the tokenizer ends every text with {given.num_closing} special tokens, so that no word comes behind it"
        raise UserError(what, where="tasks.tokenizer", allowed="the tokenizer of a decoder, which ends texts with none")


def _check_evaluators(
    evaluators: Mapping[str, Learner], learner: Learner, tasks: TaskSignature, head: str, where: str
) -> None:
    """Check that evaluation reads roles that there are, and a head and meta-parameters that training has."""
    evaluator, trained = next(iter(evaluators.values())), learner.init(0)
    for role in evaluator.roles:
        outputs_of_role(tasks.train_outputs, role, where)
    if evaluator.own_heads is not None and head != HEAD:
        what = f"evaluation scores the predictions of the learner, which are no outputs of '{head}'"
        raise UserError(what, where="algorithm.evaluate.head", allowed=HEAD)
    is_fresh = evaluator.fresh >= set(evaluator.backbone.head_names(head))
    if head not in learner.backbone.heads and not is_fresh:
        what = f"evaluation scores queries through head '{head}', which training does not have"
        raise UserError(what, where="algorithm.evaluate.head", allowed=nearest(head, learner.backbone.heads))
    for name, tensor in evaluator.init(0).items():
        if name in evaluator.fresh or (name in trained and trained[name].shape == tensor.shape):
            continue
        has = f"has it as {list(trained[name].shape)}" if name in trained else "does not have it"
        raise UserError(
            f"evaluation needs parameter '{name}' {list(tensor.shape)}, but training {has}",
            where=where,
            allowed="head 'fresh', ridge with learned false, or training that uses what evaluation uses",
        )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
