"""Whether a method can be run on interactive tasks: checked when it is built."""

from __future__ import annotations

from distmeta.config import AlgorithmConfig
from distmeta.core.errors import UserError
from distmeta.methods.learners.base import Learner
from distmeta.models.base import HEAD


def check_interactive(settings: AlgorithmConfig, learner: Learner, *, in_order: bool) -> None:
    """Check that a method asks interactive tasks in the ways that these answer.

    Args:
        settings: The method.
        learner: How training tasks are adapted; `asks` says whether they are interactive.
        in_order: Whether the tasks are trials.

    Raises:
        UserError: It does not, or the tasks are others and the network is a policy.
    """
    if not learner.asks:
        if learner.backbone.acts:
            what = "the network is a policy, but the tasks are not interactive"
            raise UserError(what, where="model.kind", allowed="another network, or tasks.source 'navigation'")
        return
    _check_memory(learner, in_order=in_order)
    for field, each in (("learner", settings.learner), ("evaluate.learner", settings.evaluated_learner())):
        if not each.is_stepwise and each.kind != "python":
            what = (
                f"learner kind '{each.kind}' adapts to examples, which interactive tasks have only when they are asked"
            )
            raise UserError(what, where=f"algorithm.{field}.kind", allowed="gradient")
        for below, head, _ in each.uses:
            if head != HEAD:
                what = f"inner steps go through head '{head}', but the policy acts through '{HEAD}'"
                raise UserError(what, where=f"algorithm.{field}{below}.head", allowed=HEAD)
    places: dict[str, tuple[bool, str]] = {}
    for term in settings.terms:
        how = (term.at == "meta", term.head)
        if places.setdefault(term.role, how) != how:
            what = f"two terms score role '{term.role}' by different policies, but its trajectories are those of one"
            raise UserError(what, where="algorithm.terms", allowed="terms of one place and head for each role")
    if settings.evaluate.stream is not None:
        what = "a stream has its batches from the start, but interactive tasks answer between inner steps"
        raise UserError(what, where="algorithm.evaluate.stream", allowed="null")


def _check_memory(learner: Learner, *, in_order: bool) -> None:
    memory = learner.backbone.memory
    if in_order and not memory:
        what = "a trial of several episodes is read in order, but the network has no memory"
        raise UserError(what, where="model", allowed="kind 'policy' with memory 1 or more, or tasks.episodes null")
    if memory and not in_order:
        what = f"the policy has a memory of {memory} units, but trajectories are single episodes without what was done"
        raise UserError(what, where="tasks.episodes", allowed="1 or more, or model.memory 0")
