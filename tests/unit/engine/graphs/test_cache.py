from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from distmeta.core.errors import UserError
from distmeta.engine.graphs.cache import cache_folder, environment


def test_the_folder_is_created_in_the_home_folder_for_its_owner_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / "a" / "home"))
    folder = cache_folder()
    assert folder == tmp_path / "a" / "home" / "engine"
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    assert cache_folder() == folder


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o720])
def test_a_folder_that_others_may_write_to_is_refused(mode: int) -> None:
    folder = cache_folder()
    folder.chmod(mode)
    with pytest.raises(UserError, match=r"^[^\n]*others may write to this folder[^\n]*mode 0700[^\n]*$") as caught:
        cache_folder()
    assert str(folder) in str(caught.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the owner of a folder")
def test_a_folder_of_another_user_is_refused() -> None:
    folder = cache_folder()
    os.chown(folder, 12345, -1)
    with pytest.raises(UserError, match="others may write to this folder"):
        cache_folder()


def test_the_environment_contains_the_versions() -> None:
    import torch

    import distmeta

    assert environment() == environment()
    assert {distmeta.__version__, torch.__version__} <= set(environment())
