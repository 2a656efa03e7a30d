"""Requirements of a logged model."""

from __future__ import annotations

import pytest

from distmeta.tracking import logged_model


def test_requirements_pin_installed_packages_without_local_build_suffixes(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"distmeta": "0.1", "torch": "2.5.0+cpu", "numpy": "2.0"}
    monkeypatch.setattr(logged_model, "package_version", versions.get)
    assert logged_model.requirements() == ["distmeta==0.1", "numpy==2.0", "torch==2.5.0"]
