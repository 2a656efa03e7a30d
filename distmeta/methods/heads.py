"""Heads: how many outputs each head of the network has, and which of them terms may go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distmeta.config import RunConfig
from distmeta.core.errors import UserError, nearest
from distmeta.core.types import LABELS, QUERY, SUPPORT, UNLABELLED
from distmeta.methods.learners.base import Learner
from distmeta.methods.objectives import LABEL_FREE, OBJECTIVES
from distmeta.methods.terms import OuterTerm
from distmeta.models.base import HEAD
from distmeta.tasks.base import TaskSignature


def train_heads(config: RunConfig, tasks: TaskSignature) -> dict[str, int]:
    """Numbers of outputs of the network's heads in training, by what goes through them."""
    settings = config.algorithm
    terms = [(f"algorithm.terms.{i}", term) for i, term in enumerate(settings.terms)]
    fixed = {term.head for _, term in terms if term.objective not in LABEL_FREE}
    # What is not compared with targets goes through a head as it is.
    uses = [
        (at, term.head, term.role) for at, term in terms if term.objective not in LABEL_FREE or term.head not in fixed
    ]
    if settings.adapts:
        uses += [(f"algorithm.learner{field}", head, role) for field, head, role in settings.learner.uses]
    return _heads(uses, tasks.train_outputs) or {HEAD: tasks.num_outputs}


def eval_heads(config: RunConfig, tasks: TaskSignature) -> dict[str, int]:
    """The same at evaluation, whose tasks may have other classes than those of training, and another number of them."""
    settings, learner = config.algorithm, field_of_evaluation(config)
    uses = [("algorithm.evaluate", settings.evaluated_head, QUERY)]
    uses += [(f"{learner}{field}", head, role) for field, head, role in settings.evaluated_learner().uses]
    of_tasks = (SUPPORT, QUERY, LABELS, *({UNLABELLED} & tasks.train_outputs.keys()))
    return _heads(uses, {**tasks.train_outputs, **dict.fromkeys(of_tasks, tasks.num_outputs)})


def _heads(uses: Sequence[tuple[str, str, str]], outputs_of: Mapping[str, int]) -> dict[str, int]:
    """Numbers of outputs of heads, by the roles whose examples go through them: (field, head, role)."""
    heads: dict[str, tuple[int, str]] = {}
    for where, head, role in uses:
        outputs = outputs_of_role(outputs_of, role, f"{where}.role")
        before = heads.setdefault(head, (outputs, where))
        if before[0] != outputs:
            raise UserError(
                f"role '{role}' needs {outputs} outputs, but head '{head}' has {before[0]} for {before[1]}",
                where=f"{where}.head",
                allowed="another head",
            )
    return {head: outputs for head, (outputs, _) in heads.items()}


def outputs_of_role(outputs_of: Mapping[str, int], role: str, where: str) -> int:
    if role not in outputs_of:
        raise UserError(f"the tasks have no role '{role}'", where=where, allowed=", ".join(outputs_of))
    return outputs_of[role]


def check_heads(terms: Sequence[OuterTerm], learner: Learner, where: str) -> None:
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


def field_of_evaluation(config: RunConfig) -> str:
    return "algorithm.learner" if config.algorithm.evaluate.learner is None else "algorithm.evaluate.learner"
