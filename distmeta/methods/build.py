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
from distmeta.methods.learners import build_learner
from distmeta.methods.learners.base import Learner
from distmeta.methods.objectives import OBJECTIVES, find_objective
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
        scored: What evaluation tasks are scored on: the queries by the tasks' own objective, then further terms.
    """

    learner: Learner
    estimator: Estimator
    terms: tuple[OuterTerm, ...]
    evaluators: dict[str, Learner]
    scored: tuple[OuterTerm, ...]

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
    settings, heads = config.algorithm, _train_heads(config, tasks)
    backbone = build_backbone(config.model, tasks.input_shape, heads, dtype_of(config))
    _check_tokens(backbone.tokens, tasks.tokens)
    learner = build_learner(settings.learner, backbone, tasks.objective)
    terms = _outer_terms(settings.terms, tasks, "algorithm.terms")
    _check_terms(terms, learner)
    _check_heads(terms, learner, "algorithm.terms")
    if settings.estimator.is_exact and settings.learner.num_steps and "second_order" in backbone.limits:
        raise UserError(
            f"the exact gradient needs second derivatives, which the network lacks ({backbone.limits['second_order']})",
            where="algorithm.estimator.order",
            allowed="1, or another network",
        )
    evaluators = build_evaluators(config, tasks)
    _check_evaluators(evaluators, learner, tasks, _field_of_evaluation(config))
    scored = (OuterTerm(QUERY, find_objective(tasks.objective, "tasks")), *_further_terms(settings, tasks, evaluators))
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
    """Build the learner of evaluation tasks under each protocol that the network can follow."""
    settings = config.algorithm
    backbone = build_backbone(config.model, tasks.input_shape, {HEAD: tasks.num_outputs}, dtype_of(config))
    where = _field_of_evaluation(config)
    return {
        protocol: build_learner(settings.evaluated_learner(), backbone.under(protocol), tasks.objective, where)
        for protocol in backbone.protocols
    }


def protocol_of(algorithm: Algorithm) -> str:
    """The protocol of a run's headline score: the one that it trains under."""
    return algorithm.learner.backbone.protocol


def _train_heads(config: RunConfig, tasks: TaskSignature) -> dict[str, int]:
    """Numbers of outputs of the network's heads in training, by what goes through them."""
    settings = config.algorithm
    uses = [(f"algorithm.terms.{i}", term.head, term.role) for i, term in enumerate(settings.terms)]
    if settings.adapts:
        uses += [(f"algorithm.learner{field}", head, role) for field, head, role in settings.learner.uses]
    heads: dict[str, tuple[int, str]] = {}
    for where, head, role in uses:
        outputs = _outputs(tasks, role, f"{where}.role")
        before = heads.setdefault(head, (outputs, where))
        if before[0] != outputs:
            raise UserError(
                f"role '{role}' needs {outputs} outputs, but head '{head}' has {before[0]} for {before[1]}",
                where=f"{where}.head",
                allowed="another head",
            )
    return {head: outputs for head, (outputs, _) in heads.items()} or {HEAD: tasks.num_outputs}


def _outputs(tasks: TaskSignature, role: str, where: str) -> int:
    if role not in tasks.train_outputs:
        raise UserError(f"the tasks have no role '{role}'", where=where, allowed=", ".join(tasks.train_outputs))
    return tasks.train_outputs[role]


def _outer_terms(terms: Sequence[Term], tasks: TaskSignature, where: str) -> tuple[OuterTerm, ...]:
    return tuple(
        OuterTerm(
            term.role,
            find_objective(term.objective or tasks.objective, f"{where}.{position}.objective"),
            term.weight,
            term.at,
            term.head,
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
        outputs = _outputs(tasks, term.role, f"{where}.{position}.role")
        if outputs != tasks.train_outputs[QUERY]:
            what = f"role '{term.role}' has {outputs} outputs, but queries have {tasks.train_outputs[QUERY]}"
            raise UserError(what, where=f"{where}.{position}.role", allowed="query, support")
        if evaluator.own_heads is None and term.head not in evaluator.backbone.heads:
            allowed = nearest(term.head, evaluator.backbone.heads)
            raise UserError(f"no head '{term.head}'", where=f"{where}.{position}.head", allowed=allowed)
    _check_heads(terms, evaluator, where)
    return terms


def _check_heads(terms: Sequence[OuterTerm], learner: Learner, where: str) -> None:
    """Check that terms use the heads of a learner that has its own as it declares."""
    if learner.own_heads is None:
        return
    for position, term in enumerate(terms):
        if term.head == HEAD:
            continue
        own, field = learner.own_heads.get(term.head), f"{where}.{position}"
        if own is None:
            allowed = nearest(term.head, (HEAD, *learner.own_heads))
            raise UserError(f"the learner has no head '{term.head}'", where=f"{field}.head", allowed=allowed)
        if own.role not in (None, term.role):
            what = f"head '{term.head}' has no outputs for role '{term.role}'"
            raise UserError(what, where=f"{field}.role", allowed=own.role)
        known = {objective: name for name, objective in OBJECTIVES.items()}
        if own.objective is not None and known.get(term.objective, own.objective) != own.objective:
            what = f"head '{term.head}' does not fit objective '{known[term.objective]}'"
            raise UserError(what, where=f"{field}.objective", allowed=f"{own.objective}, or one of your own")


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


def _field_of_evaluation(config: RunConfig) -> str:
    return "algorithm.learner" if config.algorithm.evaluate.learner is None else "algorithm.evaluate.learner"


def _check_evaluators(evaluators: Mapping[str, Learner], learner: Learner, tasks: TaskSignature, where: str) -> None:
    """Check that evaluation reads roles that there are, and meta-parameters that training has."""
    evaluator, trained = next(iter(evaluators.values())), learner.init(0)
    for role in evaluator.roles:
        _outputs(tasks, role, where)
    for name, tensor in evaluator.init(0).items():
        if name in evaluator.fresh or (name in trained and trained[name].shape == tensor.shape):
            continue
        has = f"has it as {list(trained[name].shape)}" if name in trained else "does not have it"
        raise UserError(
            f"evaluation needs parameter '{name}' {list(tensor.shape)}, but training {has}",
            where=where,
            allowed="head 'fresh', or terms and phases of training that use what evaluation uses",
        )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
