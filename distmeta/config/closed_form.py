"""What learners declare that take no inner steps: they adapt in closed form, or by their activations."""

from __future__ import annotations

from typing import ClassVar, Self

from distmeta.config.base import Frozen


class ClosedFormConfig(Frozen):
    """A learner that reads the support set once."""

    is_stepwise: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    learns_inner: ClassVar[bool] = False
    fixes_steps: ClassVar[bool] = False
    needs_names: ClassVar[bool] = False
    proximal: ClassVar[float | None] = None
    num_steps: ClassVar[int] = 0
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = (("", "head", "support"),)

    def with_steps(self, steps: int) -> Self:
        """The same: there are no inner steps."""
        return self
