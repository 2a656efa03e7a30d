"""Messages of user errors."""

from __future__ import annotations

import pytest

from distmeta.core.errors import UserError, nearest


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("is negative"), "is negative"),
        (UserError("is -1", where="outer.lr"), "outer.lr: is -1"),
        (UserError("is -1", where="outer.lr", allowed="above 0"), "outer.lr: is -1; allowed: above 0"),
        (UserError("is\n  -1", where="a\nb", allowed="above\n0"), "a b: is -1; allowed: above 0"),
    ],
)
def test_the_message_is_one_line(error: UserError, message: str) -> None:
    assert str(error) == message


def test_the_closest_name_comes_first() -> None:
    assert nearest("moml", ["reptile", "maml"]) == "did you mean 'maml'? (maml, reptile)"
    assert nearest("xyz", {"reptile": 1, "maml": 2}) == "maml, reptile"
    assert nearest("xyz", []) == ""
