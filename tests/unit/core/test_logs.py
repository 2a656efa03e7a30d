"""Silencing a noisy logger."""

from __future__ import annotations

import logging

import pytest

from distmeta.core.logs import quiet

from ...logged import Logged


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_a_silenced_logger_passes_errors_and_gets_its_level_back(
    level: int, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = logging.getLogger("noisy.library")
    monkeypatch.setattr(noisy, "level", level)
    with pytest.raises(RuntimeError), quiet("noisy.library"):
        noisy.warning("deprecated")
        noisy.error("broken")
        raise RuntimeError
    assert [record.getMessage() for record in logged.records] == ["broken"]
    assert noisy.level == level
