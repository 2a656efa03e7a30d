"""Learners: how one task is adapted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.bounds import PositiveCount
from distmeta.config.gradient import GradientConfig
from distmeta.config.python import PythonLearner


class _FeatureConfig(Frozen):
    """What learners declare that adapt in closed form, by the features of the support set alone."""

    is_stepwise: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False
    learns_rates: ClassVar[bool] = False
    fixes_steps: ClassVar[bool] = False
    num_steps: ClassVar[int] = 0
    uses: ClassVar[tuple[tuple[str, str, str], ...]] = (("", "head", "support"),)

    def with_steps(self, steps: int) -> Self:
        """The same: there are no inner steps."""
        return self


class PrototypeConfig(_FeatureConfig):
    """Classify by squared Euclidean distance to class means in feature space (Snell et al. 2017).

    Attributes:
        scale: Factor of the squared distances (an inverse temperature, for features of length 1).
    """

    kind: Literal["prototype"] = "prototype"
    scale: PositiveFloat = 1.0

    needs_classes: ClassVar[bool] = True


class NeighbourConfig(_FeatureConfig):
    """Classify by the labels of support examples, weighted by `exp(scale * similarity)` of their features.

    Attributes:
        similarity: Cosine (matching networks, Vinyals et al. 2016), or negative squared distance.
        scale: Factor of the similarity (an inverse temperature).
        neighbours: Number of nearest support examples that count; None: all.
        context_steps: Reading steps of full-context embeddings (Vinyals et al. 2016, section 2.1.2), which have
            parameters of their own; 0: the features as they are.
    """

    kind: Literal["neighbours"] = "neighbours"
    similarity: Literal["cosine", "euclidean"] = "cosine"
    scale: PositiveFloat = 1.0
    neighbours: PositiveCount | None = None
    context_steps: int = Field(0, ge=0, le=100)

    needs_classes: ClassVar[bool] = True


class RidgeConfig(_FeatureConfig):
    """Fit a linear head by ridge regression in closed form (Bertinetto et al. 2019), to labels or to numbers.

    Attributes:
        regularisation: Weight of the squared norm of the head.
        scale: Factor of the head's outputs.
        learned: The logarithm of `regularisation`, `scale` and a bias are meta-parameters, which start from these
            values and from 0. Otherwise they are fixed, so that evaluation may use them with any trained body.
        intercept: A 1 is appended to the features.
    """

    kind: Literal["ridge"] = "ridge"
    regularisation: PositiveFloat = 1.0
    scale: PositiveFloat = 1.0
    learned: bool = True
    intercept: bool = True

    needs_classes: ClassVar[bool] = False


LearnerConfig = Annotated[
    Annotated[
        GradientConfig | PrototypeConfig | NeighbourConfig | RidgeConfig | PythonLearner, Field(discriminator="kind")
    ],
    BeforeValidator(PythonLearner.of),
]
