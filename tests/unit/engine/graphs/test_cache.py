from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from distmeta.core.errors import UserError
from distmeta.engine.graphs.cache import cache_folder, environment, use_private_compiler_caches


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


def test_a_home_folder_in_which_others_can_replace_the_cache_is_refused() -> None:
    home = cache_folder().parent
    home.chmod(0o777)
    with pytest.raises(UserError, match=f"^{home}: others may write"):
        cache_folder()
    home.chmod(0o1777)  # as in the temporary directory: only the owner of an entry can replace it
    cache_folder()


def test_the_compilers_own_caches_are_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = tmp_path / "torchinductor_someone"
    shared.mkdir(mode=0o777)
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(shared))
    use_private_compiler_caches()
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        folder = cache_folder() / name
        assert os.environ[variable] == str(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (cache_folder() / "inductor").chmod(0o770)
    with pytest.raises(UserError, match="inductor: others may write"):
        use_private_compiler_caches()
    (cache_folder() / "inductor").rmdir()
    (cache_folder() / "inductor").symlink_to(shared)
    with pytest.raises(UserError, match="inductor: others may write"):
        use_private_compiler_caches()


def test_a_home_that_is_a_file_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTMETA_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="compiled code cannot be stored"):
        cache_folder()


def test_the_environment_contains_the_versions() -> None:
    import torch

    import distmeta

    assert environment() == environment()
    assert {distmeta.__version__, torch.__version__} <= set(environment())
