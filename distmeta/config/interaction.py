"""Interactive tasks, whose examples are collected with the policy at hand, and what policies are trained by."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from distmeta.config.base import Frozen
from distmeta.config.bounds import Examples

Horizon = Annotated[int, Field(ge=1, le=100_000)]
Episodes = Annotated[int, Field(ge=1, le=1000)]


class PolicyGradientConfig(Frozen):
    """Minus the mean reward of a step, with derivatives of every order that are estimated from trajectories.

    Attributes:
        discount: Discount factor of rewards.
        gae: Weight of later temporal differences in the advantages (lambda of GAE, Schulman et al. 2016); 1: returns
            minus the baseline.
        baseline: What returns are compared with: a function linear in features of observation and time, fitted to the
            returns of the same trajectories (`linear`, Duan et al. 2016), or nothing.
        normalise: Whether the advantages of a task are shifted and scaled to mean 0 and deviation 1.
        dependence: How much second derivatives know of how a step depends on the actions before it: 1 is DiCE (Foerster
            et al. 2018), exact; 0 leaves them out (ProMP's low-variance curvature, Rothfuss et al. 2019); between,
            loaded DiCE (Farquhar et al. 2019). Without effect on first derivatives.
        clip: How far from 1 a ratio of probabilities counts: the clipped loss of PPO (Schulman et al. 2017), for outer
            steps on trajectories of other parameters (`outer.epochs`). Needs dependence 0. None: any ratio counts.
    """

    kind: Literal["policy_gradient"] = "policy_gradient"
    discount: float = Field(0.99, ge=0.0, le=1.0)
    gae: float = Field(1.0, ge=0.0, le=1.0)
    baseline: Literal["linear", "none"] = "linear"
    normalise: bool = True
    dependence: float = Field(1.0, ge=0.0, le=1.0)
    clip: float | None = Field(None, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _ratios_are_of_single_steps(self) -> Self:
        if self.clip is not None and self.dependence > 0.0:
            raise ValueError(f"clip {self.clip} is of ratios of single steps; allowed: dependence 0, or clip null")
        return self


class NavigationTasks(Frozen):
    """A point walks in the plane to a goal that it is not told (Finn et al. 2017, section 5.3).

    Examples are whole trajectories. Each begins at the origin and ends near the goal, or after `horizon` steps.

    Attributes:
        shots: Support trajectories, for each inner step anew.
        queries: Query trajectories in training.
        eval_queries: Query trajectories at evaluation, for each number of inner steps anew.
        horizon: Most steps of a trajectory.
        goals: Range of either coordinate of the goal.
        reward: Minus the distance to the goal after a step, or minus its square.
        speed: Largest change of either coordinate in a step; actions are in units of it and clipped to [-1, 1].
        radius: Distance from the goal at which a trajectory ends.
        episodes: A trajectory is a trial of so many walks, each from the origin to the goal or of `horizon` steps, and
            policies see what they did and got in the step before, too (RL2, Duan et al. 2016). They need a memory.
            None: a trajectory is one walk.
    """

    source: Literal["navigation"] = "navigation"
    shots: Examples = 20
    queries: Examples = 20
    eval_queries: Examples = 20
    horizon: Horizon = 100
    goals: tuple[float, float] = (-0.5, 0.5)
    reward: Literal["distance", "squared"] = "distance"
    speed: PositiveFloat = 0.1
    radius: PositiveFloat = 0.01
    episodes: Episodes | None = None

    has_classes: ClassVar[bool] = False
    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Steps of all trajectories of a training or an evaluation task, whichever has more."""
        return self.horizon * (self.episodes or 1) * (self.shots + max(self.queries, self.eval_queries))


class CheetahTasks(Frozen):
    """A running cheetah of MuJoCo that is to run in a direction, or at a speed, that it is not told (Finn et al. 2017).

    Examples are whole trajectories of `horizon` steps. Needs `pip install distmeta[rl]`.

    Attributes:
        goal: `direction`: forward or backward. `velocity`: a speed in the range `speeds`.
        shots: Support trajectories, for each inner step anew.
        queries: Query trajectories in training.
        eval_queries: Query trajectories at evaluation, for each number of inner steps anew.
        horizon: Steps of a trajectory.
        speeds: Range of the speed in m/s.
        control_cost: Factor of the squared norm of an action in the reward.
        noise: Deviations from the initial position (uniform) and velocity (normal).
        episodes: A trajectory is a trial of so many runs (see `NavigationTasks`); None: one run.
    """

    source: Literal["cheetah"] = "cheetah"
    goal: Literal["direction", "velocity"] = "direction"
    shots: Examples = 20
    queries: Examples = 20
    eval_queries: Examples = 20
    horizon: Horizon = 200
    speeds: tuple[float, float] = (0.0, 3.0)
    control_cost: NonNegativeFloat = 0.05
    noise: NonNegativeFloat = 0.1
    episodes: Episodes | None = None

    has_classes: ClassVar[bool] = False
    has_images: ClassVar[bool] = False
    has_texts: ClassVar[bool] = False
    has_numbers: ClassVar[bool] = True
    changes_outputs: ClassVar[bool] = False

    @property
    def max_examples(self) -> int:
        """Steps of all trajectories of a training or an evaluation task, whichever has more."""
        return self.horizon * (self.episodes or 1) * (self.shots + max(self.queries, self.eval_queries))
