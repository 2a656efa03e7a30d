"""Learners: how one task is adapted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.black_box import InContextConfig, LstmConfig, NeuralProcessConfig
from distmeta.config.gradient import GradientConfig
from distmeta.config.python import PythonLearner


class PrototypeConfig(Frozen):
    """Classify by squared Euclidean distance to class means in feature space (Snell et al. 2017).

    Attributes:
        scale: Factor of the squared distances (an inverse temperature, for features of length 1).
    """

    kind: Literal["prototype"] = "prototype"
    scale: PositiveFloat = 1.0

    needs_classes: ClassVar[bool] = True
    is_stepwise: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    learns_rates: ClassVar[bool] = False
    num_steps: ClassVar[int] = 0
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = (("", "head", "support"),)

    def with_steps(self, steps: int) -> PrototypeConfig:
        """The same: there are no inner steps."""
        return self


LearnerConfig = Annotated[
    Annotated[
        GradientConfig | PrototypeConfig | LstmConfig | NeuralProcessConfig | InContextConfig | PythonLearner,
        Field(discriminator="kind"),
    ],
    BeforeValidator(PythonLearner.of),
]
