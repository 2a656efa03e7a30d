from __future__ import annotations

import pytest

from benchmarks import report


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes are not measured, which takes half a second."""
    monkeypatch.setattr(report, "busy_share", lambda: 0.0)
