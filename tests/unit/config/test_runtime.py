"""Valid and invalid values of `runtime.workers`."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from distmeta.config import RuntimeConfig


@pytest.mark.parametrize(
    ("value", "minimum", "maximum"), [(2, 2, 2), ("3", 3, 3), ("1..4", 1, 4), ("2..2", 2, 2), ("10..200", 10, 200)]
)
def test_a_number_or_a_range(value: int | str, minimum: int, maximum: int) -> None:
    config = RuntimeConfig(workers=value)
    assert (config.min_workers, config.max_workers) == (minimum, maximum)
    assert RuntimeConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "x", "4..2", "0..3", "1..", "..3", "1...3", None])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(
        ValidationError, match=r"is not a number of workers; allowed: a whole number from 1 to 100000, or MIN\.\.MAX"
    ):
        RuntimeConfig(workers=value)  # type: ignore[arg-type]
