"""Tasks that are cut into the batches of a stream."""

from __future__ import annotations

import pytest
import torch

from distmeta.core.errors import UserError
from distmeta.core.types import Batch, Episode
from distmeta.methods.learners.base import Stage
from distmeta.program.streams import batches_of


def tasks(**sizes: int) -> Episode:
    """Two tasks; an example is its number, those of the second task plus 100."""
    numbers = {role: torch.arange(size) + torch.tensor([[0], [100]]) for role, size in sizes.items()}
    return Episode({role: Batch(values[..., None], values) for role, values in numbers.items()})


def stages(*rows: tuple[int, ...] | None) -> list[Stage]:
    return [Stage(role="unlabelled", rows=each) for each in rows]


def test_roles_are_cut_into_equal_parts_in_order() -> None:
    parts = batches_of(tasks(unlabelled=6, query=6, rotation=12), stages((0, 1), (2, 3), (4, 5)))
    assert [part["query"].targets.tolist() for part in parts] == [
        [[0, 1], [100, 101]],
        [[2, 3], [102, 103]],
        [[4, 5], [104, 105]],
    ]
    assert parts[1]["rotation"].inputs[:, :, 0].tolist() == [[4, 5, 6, 7], [104, 105, 106, 107]]
    (whole,) = batches_of(tasks(unlabelled=6, query=3), stages(None))
    assert whole["query"].targets.shape == (2, 3)


@pytest.mark.parametrize(
    ("episode", "steps", "message"),
    [
        (
            tasks(unlabelled=6, query=6),
            stages((0, 1), (2, 3)),
            "has 3 batches of 2, but the learner takes 2 inner steps",
        ),
        (tasks(unlabelled=5, query=5), stages((0, 1), (2, 3)), "has 2.5 batches of 2"),
        (tasks(unlabelled=4, query=4), stages((0, 1), (2, 3), (0, 1)), "takes 3 inner steps; allowed: one inner step"),
        (
            tasks(unlabelled=4, query=4),
            stages((2, 3), (0, 1)),
            "do not take the examples of role 'unlabelled' in their",
        ),
        (
            tasks(unlabelled=4, query=5),
            stages((0, 1), (2, 3)),
            "the 5 examples of role 'query' are not 2 equal batches",
        ),
    ],
)
def test_steps_that_are_no_stream_are_refused(episode: Episode, steps: list[Stage], message: str) -> None:
    with pytest.raises(UserError, match=message):
        batches_of(episode, steps)
