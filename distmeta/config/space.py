"""A search space: which fields of a configuration to vary, and over which values.

algorithm.learner.phases.0.lr: {log_uniform: [1e-4, 1e-1]}
algorithm.learner.phases.0.steps: {integers: [10, 200]}
algorithm.learner.phases.0.l2sp: {grid: [0, 0.01, 0.1]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from distmeta.config.base import Frozen, shortened, to_user_error
from distmeta.config.text import MAX_CHARACTERS, parse_json, parse_yaml
from distmeta.core.errors import UserError, nearest
from distmeta.core.files import read_file

MAX_TRIALS = 10_000
_SUFFIXES = (".yaml", ".yml", ".json")
_KINDS = ("choice", "grid", "integers", "log_uniform", "uniform")


class Values(Frozen):
    """The values of one field: exactly one of these kinds.

    Attributes:
        grid: Each of the values, together with each of those of other grids.
        choice: One of the values.
        uniform: A number between two.
        log_uniform: A number between two, uniform in its logarithm.
        integers: A whole number from the first to the second.
    """

    grid: tuple[Any, ...] | None = Field(None, min_length=1, max_length=MAX_TRIALS)
    choice: tuple[Any, ...] | None = Field(None, min_length=1, max_length=MAX_TRIALS)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Values:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"{len(given)} kinds of values; allowed: one of {', '.join(_KINDS)}")
        for kind in ("uniform", "log_uniform", "integers"):
            bounds = getattr(self, kind)
            if bounds is not None and not (-math.inf < bounds[0] <= bounds[1] < math.inf):
                raise ValueError(f"{kind} [{bounds[0]:g}, {bounds[1]:g}]; allowed: the smaller number first")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform from {self.log_uniform[0]:g}; allowed: above 0")
        return self

    def at(self, share: float) -> Any:
        """The value at a share of the drawn kinds. `share` is at least 0 and below 1; all shares are as likely."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        if self.integers is not None:
            low, high = self.integers
            return low + int(share * (high - low + 1))
        if self.log_uniform is not None:
            low_log, high_log = map(math.log, self.log_uniform)
            return math.exp(low_log + share * (high_log - low_log))
        assert self.uniform is not None
        return self.uniform[0] + share * (self.uniform[1] - self.uniform[0])


def load_space(source: str) -> dict[str, Values]:
    """Read a search space, fields of a configuration by their paths, from YAML or JSON.

    Raises:
        UserError: The file cannot be used, or does not say fields and their values.
    """
    path = Path(source)
    if path.suffix not in _SUFFIXES:
        raise UserError(f"a search space of kind '{path.suffix}'", where=source, allowed=", ".join(_SUFFIXES))
    try:
        text = read_file(path, MAX_CHARACTERS).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot be read: {error}", where=source) from error
    values = (parse_json if path.suffix == ".json" else parse_yaml)(text, source)
    if not isinstance(values, Mapping) or not values:
        what = f"{shortened(values)} is not a mapping of fields"
        raise UserError(
            what, where=source, allowed="FIELD: {KIND: [VALUES]}, for example outer.lr: {grid: [0.1, 0.01]}"
        )
    return {str(field): _values(each, f"{source}: {field}") for field, each in values.items()}


def _values(each: Any, where: str) -> Values:
    if not isinstance(each, Mapping):
        what = f"{shortened(each)} is no kind of values"
        raise UserError(what, where=where, allowed="{KIND: [VALUES]}, KIND one of " + ", ".join(_KINDS))
    unknown = [str(kind) for kind in each if kind not in _KINDS]
    if unknown:
        raise UserError(f"unknown kind '{unknown[0]}'", where=where, allowed=nearest(unknown[0], _KINDS))
    try:
        return Values.model_validate(dict(each))
    except ValidationError as error:
        found = to_user_error(error)
        raise UserError(found.what, where=where, allowed=found.allowed) from error


def num_trials(space: Mapping[str, Values], draws: int) -> int:
    """How many trials `draws` drawn settings with each cell of the grids are.

    Raises:
        UserError: More than `MAX_TRIALS`.
    """
    cells = math.prod(len(each.grid) for each in space.values() if each.grid is not None)
    if cells * draws > MAX_TRIALS:
        raise UserError(f"{cells * draws} trials", where="--space", allowed=f"at most {MAX_TRIALS}")
    return cells * draws


def override_of(field: str, value: Any) -> str:
    """`field=value`, as `--set` takes it."""
    return f"{field}={json.dumps(value)}"
