"""Which checkpoint a run may go on from: one whose configuration gives the same meta-parameters, step by step."""

from __future__ import annotations

from typing import Any

from distmeta.checkpoint.files import Checkpoint
from distmeta.checkpoint.reading import latest, load, runs_folder
from distmeta.config.run import RunConfig
from distmeta.core.errors import UserError

NEUTRAL = (
    "runtime.",
    "evaluation.",
    "checkpoint.",
    "tracking.",
    "train.budget_s",
    "train.log_every",
    "outer.nonfinite",
)
"""Fields that may differ when a run is resumed: they do not change the course of the meta-parameters."""
CHOSEN = ("engine.strategy", "engine.chunk", "engine.memory")
"""Fields that a run with `engine.strategy: auto` takes from its checkpoint, where the choice is kept."""
COUNTED = ("runtime.shard_size", "runtime.device")
"""Those among them that do: sums are rounded differently."""


def resumable(config: RunConfig) -> Checkpoint:
    """The newest checkpoint of the run of this name.

    Raises:
        UserError: There is none, or the run was started with a configuration that gives another course.
    """
    path = latest(config.checkpoint.path, config.name)
    if path is None:
        raise UserError(
            f"there is no checkpoint of '{config.name}' below {runs_folder(config.checkpoint.path).url}",
            where="--resume",
            allowed="the name of a run that has been started, or no --resume",
        )
    found = load(path)
    old, new = _leaves(found.config.model_dump(mode="json")), _leaves(config.model_dump(mode="json"))
    for field in sorted(old.keys() | new.keys()):
        neutral = field.startswith(NEUTRAL) and not field.startswith(COUNTED)
        chosen = field in CHOSEN and config.engine.strategy == "auto"
        chosen = chosen or (field == "engine.memory" and config.engine.memory == "auto")
        extended = field == "train.steps" and config.outer.schedule == "constant"
        if old.get(field) != new.get(field) and not (neutral or extended or chosen):
            raise UserError(
                f"is {new.get(field)!r} but the run to resume was started with {old.get(field)!r}",
                where=field,
                allowed=f"{old.get(field)!r}, or another run name",
            )
    return found


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: leaf for key, part in value.items() for name, leaf in _leaves(part, f"{prefix}{key}.").items()}
    if isinstance(value, list):
        return {name: leaf for i, part in enumerate(value) for name, leaf in _leaves(part, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): value}
