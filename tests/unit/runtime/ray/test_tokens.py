"""Ray's token is readable by its owner alone before any cluster starts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from distmeta.core.errors import UserError
from distmeta.runtime.ray.tokens import check_private_token, ensure_private_token

from ....logged import Logged


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_token_is_made_private(home: Path) -> None:
    ensure_private_token()
    token = home / ".ray" / "auth_token"
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    first = token.read_text()
    assert len(first) == 64
    ensure_private_token()
    assert token.read_text() == first
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_can_read_is_mended(home: Path, logged: Logged) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("abc")
    token.chmod(0o644)
    with pytest.raises(UserError, match=rf"{token}: others can read Ray's token; allowed: chmod 600"):
        check_private_token()
    ensure_private_token()
    assert (mode(token), mode(token.parent), token.read_text()) == (0o600, 0o700, "abc")
    assert "others could read" in logged.text
    check_private_token()


def test_a_token_of_another_place_is_refused_with_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = home / "my token"
    token.write_text("abc")
    token.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for check in (check_private_token, ensure_private_token):
        with pytest.raises(UserError, match=rf"allowed: chmod 600 '{token}'"):
            check()
    token.chmod(0o600)
    ensure_private_token()


@pytest.mark.parametrize("variable", [("RAY_AUTH_TOKEN", "abc"), ("RAY_AUTH_MODE", "disabled")])
def test_without_a_file_nothing_is_done(home: Path, monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]) -> None:
    monkeypatch.setenv(*variable)
    ensure_private_token()
    check_private_token()
    assert not (home / ".ray").exists()


def test_a_home_that_cannot_be_written_is_one_line(home: Path) -> None:
    (home / ".ray").write_text("")
    with pytest.raises(UserError, match="token cannot be kept private"):
        ensure_private_token()
