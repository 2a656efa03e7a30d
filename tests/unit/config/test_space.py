"""Search spaces: reading them, and values by shares."""

from __future__ import annotations

import pytest

from distmeta.config.load import change
from distmeta.config.run import RunConfig
from distmeta.config.space import Values, load_space, num_trials, override_of
from distmeta.core.errors import UserError


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        ("[1, 2]", "not a mapping of fields", "space.yaml"),
        ("", "not a mapping of fields", "space.yaml"),
        ("outer.lr: 3", "3 is no kind of values", "space.yaml: outer.lr"),
        (
            "outer.lr: {loguniform: [1, 2]}",
            "unknown kind 'loguniform'; allowed: did you mean 'log_uniform'?",
            "outer.lr",
        ),
        ("outer.lr: {}", "0 kinds of values; allowed: one of choice, grid", "outer.lr"),
        ("outer.lr: {grid: [1], choice: [2]}", "2 kinds of values", "outer.lr"),
        ("outer.lr: {uniform: [2, 1]}", "uniform [2, 1]; allowed: the smaller number first", "outer.lr"),
        ("outer.lr: {log_uniform: [0, 1]}", "log_uniform from 0; allowed: above 0", "outer.lr"),
        ("outer.lr: {uniform: [1]}", "a value is required", "outer.lr"),
        ("outer.lr: {grid: []}", "[] is not valid; allowed: 1 or more elements", "outer.lr"),
    ],
)
def test_bad_spaces_are_told_in_one_line(tmp_path, content, what, where):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        load_space(str(tmp_path / "space.yaml"))
    assert what in str(caught.value)
    assert where in str(caught.value)


def test_a_space_is_read(tmp_path):
    (tmp_path / "space.yaml").write_text("outer.lr: {log_uniform: [1e-4, 1e-2]}\ntrain.steps: {grid: [10, 20]}\n")
    (tmp_path / "space.json").write_text(
        '{"outer.lr": {"log_uniform": [1e-4, 1e-2]}, "train.steps": {"grid": [10, 20]}}'
    )
    space = load_space(str(tmp_path / "space.yaml"))
    assert space == load_space(str(tmp_path / "space.json"))
    assert space["train.steps"].grid == (10, 20)
    assert num_trials(space, 3) == 6


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        (Values(choice=("a", "b", "c")), 0.0, "a"),
        (Values(choice=("a", "b", "c")), 0.999, "c"),
        (Values(integers=(3, 5)), 0.34, 4),
        (Values(integers=(3, 5)), 0.999, 5),
        (Values(uniform=(2.0, 4.0)), 0.25, 2.5),
        (Values(log_uniform=(1e-4, 1e-2)), 0.5, pytest.approx(1e-3)),
    ],
)
def test_the_value_at_a_share(values, share, expected):
    assert values.at(share) == expected


@pytest.mark.parametrize("value", [1e-05, 3, "none", "3", True, None])
def test_a_value_survives_as_an_override(value):
    field = {str: "name", bool: "tracking.model", int: "seed", float: "outer.lr"}.get(type(value), "train.budget_s")
    changed = change(RunConfig(name="run"), [override_of(field, value)])
    section = changed
    for name in field.split("."):
        section = getattr(section, name)
    assert section == value


def test_too_many_trials_are_refused():
    with pytest.raises(UserError, match="at most 10000"):
        num_trials({"seed": Values(grid=tuple(range(101)))}, 100)
