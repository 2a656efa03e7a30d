"""Find the checkpoint to resume from, and check that its configuration gives the same meta-parameters step by step."""

from __future__ import annotations

from typing import Any, Literal

from distmeta.checkpoint.files import Checkpoint
from distmeta.checkpoint.reading import checkpoints_by_step, latest, load, run_folder, runs_folder
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError

_MAY_DIFFER = (
    "runtime.",
    "evaluation.",
    "checkpoint.",
    "tracking.",
    "model.init_from",
    "train.budget_s",
    "train.log_every",
    "train.patience",
    "outer.nonfinite",
)
"""Fields that may differ between a run and its resumption, because they do not change the meta-parameters."""
_MUST_MATCH = ("runtime.shard_size", "runtime.device")
"""Exceptions among `_MAY_DIFFER`: they change the rounding of sums. So may `runtime.ranks`."""
_CHOSEN_BY_ENGINE = ("engine.strategy", "engine.chunk", "engine.memory")
"""Fields that a run with `engine.strategy: auto` or `measured` takes from its checkpoint, which has the choice."""


def resumable(config: RunConfig, which: Literal["latest", "previous"] = "latest") -> Checkpoint:
    """Load a checkpoint of the run named in `config`: the newest, or the one before it.

    Raises:
        UserError: There is none, it is damaged, or the run was started with a configuration that gives other
            meta-parameters.
    """
    run = run_folder(config.checkpoint.path, config.name)
    if latest(config.checkpoint.path, config.name) is None:
        raise UserError(
            f"there is no checkpoint of '{config.name}' in {runs_folder(config.checkpoint.path).shown}",
            where="--resume",
            allowed="the name of a run that has been started, or no --resume",
        )
    try:
        checkpoint = load(run.url, which)
    except UserError as error:
        if which == "latest" and len(checkpoints_by_step(run)) > 1:
            hint = "the checkpoint before it: --resume --which previous"
            raise UserError(
                f"the newest checkpoint cannot be used: {error.what}", where=error.where, allowed=hint
            ) from error
        raise
    old, new = _leaves(checkpoint.config.model_dump(mode="json")), _leaves(config.model_dump(mode="json"))
    must_match = (*_MUST_MATCH, "runtime.ranks") if config.outer.fixes_ranks else _MUST_MATCH
    for field in sorted(old.keys() | new.keys()):
        may_differ = field.startswith(_MAY_DIFFER) and not field.startswith(must_match)
        is_chosen = field in _CHOSEN_BY_ENGINE and config.engine.strategy in ("auto", "measured")
        is_chosen = is_chosen or (field == "engine.memory" and config.engine.memory == "auto")
        is_extension = field == "train.steps" and config.outer.schedule == "constant"
        if old.get(field) != new.get(field) and not (may_differ or is_chosen or is_extension):
            raise UserError(
                f"is {new.get(field)!r} but the run to resume was started with {old.get(field)!r}",
                where=field,
                allowed=f"{old.get(field)!r}, or another run name",
            )
    return checkpoint


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: leaf for key, part in value.items() for name, leaf in _leaves(part, f"{prefix}{key}.").items()}
    if isinstance(value, list):
        return {name: leaf for i, part in enumerate(value) for name, leaf in _leaves(part, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): value}
