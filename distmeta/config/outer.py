"""The outer (server) step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from distmeta.config.base import Frozen, shortened
from distmeta.config.bounds import Integer, NonNegativeCount, Text

_ZERO_OPTIMIZERS = ("Adam", "AdamW", "SGD")
"""Optimizers that treat each entry by itself, whatever tensor it is of."""


class TrustRegionConfig(Frozen):
    """Steps within a trust region (TRPO, Schulman et al. 2015), for the policies of interactive tasks.

    Attributes:
        max_kl: Largest divergence of the adapted policies before and after a step, mean over tasks and steps of their
            trajectories.
        cg_steps: Iterations of conjugate gradient for the direction; each is a round of requests over the workers.
        cg_tolerance: Residual, relative to the gradient, at which they stop.
        damping: Added to the Fisher matrix as a multiple of the identity.
        backtracks: Step sizes that are tried along the direction at most; each is a round of requests.
        shrink: Factor from one step size to the next.
    """

    max_kl: PositiveFloat = 0.01
    cg_steps: int = Field(10, ge=1, le=1000)
    cg_tolerance: float = Field(1e-5, ge=0.0, lt=1.0)
    damping: NonNegativeFloat = 1e-5
    backtracks: int = Field(15, ge=1, le=100)
    shrink: float = Field(0.8, gt=0.0, lt=1.0)


class OuterConfig(Frozen):
    """The outer (server) step.

    Attributes:
        optimizer: Class name of an optimizer of `torch.optim`.
        lr: Outer learning rate.
        options: Further arguments of the optimizer, e.g. `{"betas": [0.9, 0.99]}`.
        schedule: Learning-rate schedule over `train.steps`: constant, or a linear or cosine decay to
            `final_lr_fraction * lr`.
        final_lr_fraction: Final value of the schedule, as a fraction of `lr`.
        warmup_steps: Number of steps over which the rate rises linearly from 0.
        clip_norm: Maximum global norm of the outer gradient; None: no clipping.
        average: Decay of an exponential moving average of the meta-parameters, which is then evaluated and exported
            instead of them; 0: no averaging (Polyak & Juditsky 1992).
        interpolation: What is evaluated and exported lies at this share of the way from the initial meta-parameters to
            their average (or to themselves, without averaging): below 1, more of a pre-trained start is kept (Wortsman
            et al. 2022, arXiv 2109.01903). Training is not changed.
        nonfinite: What to do if a shard's update has an infinite or NaN entry on two workers: end the run (`abort`), or
            leave the shard out of its step and count it (`drop`).
        staleness: None: every step waits for all its shards (synchronous, exact). A number s: workers never wait; a
            step uses updates computed at most s versions ago, and drops older ones (asynchronous).
        staleness_weight: Weight of an update that is t versions old: 1 / (1 + t) (`inverse`), or 1 (`constant`).
        compression: Compression of updates on their way to the server: none, rounding to `bf16`, or to `int8` in blocks
            with one scale each. The rounding error is added to the same worker's next update (error feedback), so
            the result depends on which worker computes which shard.
        zero: None: the driver holds the meta-parameters. 1, 2: the ranks of the one worker hold them, with an optimizer
            of DeepSpeed. Its state is divided among the ranks (ZeRO stage 1), or also the sum of gradients (2).
        epochs: Steps that are made on the trajectories of interactive tasks before others are collected; more than one
            with an objective that has a `clip` is PPO.
        trust_region: None: the optimizer takes the gradient as it is. Otherwise steps within a trust region, with
            optimizer SGD and lr 1: the size of a step is that of the region.
    """

    optimizer: Text = "Adam"
    lr: PositiveFloat = 1e-3
    options: dict[Text, bool | Integer | float | tuple[float, ...]] = Field(default_factory=dict)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_lr_fraction: float = Field(0.0, ge=0.0, le=1.0)
    warmup_steps: NonNegativeCount = 0
    clip_norm: PositiveFloat | None = None
    average: float = Field(0.0, ge=0.0, lt=1.0)
    interpolation: float = Field(1.0, gt=0.0, le=1.0)
    nonfinite: Literal["abort", "drop"] = "abort"
    staleness: NonNegativeCount | None = None
    staleness_weight: Literal["inverse", "constant"] = "inverse"
    compression: Literal["none", "bf16", "int8"] = "none"
    zero: Literal[1, 2] | None = None
    epochs: int = Field(1, ge=1, le=1000)
    trust_region: TrustRegionConfig | None = None

    @property
    def procedure(self) -> str:
        """How an outer step is made of many shards (`distmeta.training.steps.PROCEDURES`)."""
        if self.zero is not None:
            return "zero"
        if self.trust_region is not None:
            return "trust_region"
        if self.epochs > 1:
            return "epochs"
        return "synchronous" if self.staleness is None else "asynchronous"

    @property
    def averages(self) -> bool:
        """Whether other values than the meta-parameters themselves are evaluated and exported."""
        return self.average > 0.0 or self.interpolation < 1.0

    @property
    def fixes_ranks(self) -> bool:
        """Whether a run has to be resumed with the number of ranks that it was started with."""
        return self.zero is None

    @model_validator(mode="after")
    def _zero_has_what_it_needs(self) -> Self:
        if self.zero is not None:
            self._refuse(
                f"zero {self.zero}",
                {
                    "optimizer": (self.optimizer not in _ZERO_OPTIMIZERS, ", ".join(_ZERO_OPTIMIZERS)),
                    "staleness": (self.staleness is not None, "null"),
                    "compression": (self.compression != "none", "none"),
                    "average": (self.average > 0.0, "0"),
                    "interpolation": (self.interpolation < 1.0, "1"),
                    "nonfinite": (self.nonfinite != "abort", "abort"),
                },
            )
        return self

    @model_validator(mode="after")
    def _trust_region_has_what_it_needs(self) -> Self:
        if self.trust_region is not None:
            self._refuse(
                "trust_region",
                {
                    "optimizer": (self.optimizer != "SGD", "SGD"),
                    "lr": (self.lr != 1.0, "1"),
                    "options": (bool(self.options), "{}"),
                    "schedule": (self.schedule != "constant", "constant"),
                    "warmup_steps": (self.warmup_steps > 0, "0"),
                    "clip_norm": (self.clip_norm is not None, "null"),
                    "staleness": (self.staleness is not None, "null"),
                    "compression": (self.compression != "none", "none"),
                    "nonfinite": (self.nonfinite != "abort", "abort"),
                    "zero": (self.zero is not None, "null"),
                    "epochs": (self.epochs > 1, "1"),
                },
            )
        return self

    @model_validator(mode="after")
    def _epochs_have_what_they_need(self) -> Self:
        if self.epochs > 1:
            self._refuse(
                f"epochs {self.epochs}",
                {
                    "staleness": (self.staleness is not None, "null"),
                    "compression": (self.compression != "none", "none"),
                    "nonfinite": (self.nonfinite != "abort", "abort"),
                    "zero": (self.zero is not None, "null"),
                },
            )
        return self

    def _refuse(self, what: str, others: Mapping[str, tuple[bool, str]]) -> None:
        """Raise if one of the other fields is refused; each comes with what is allowed."""
        for field, (is_refused, allowed) in others.items():
            if is_refused:
                value = shortened(getattr(self, field))
                raise ValueError(f"outer.{what} does not go with outer.{field} {value}; allowed: {allowed}")
