"""The outer (server) step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from distmeta.config.base import Frozen
from distmeta.config.bounds import Integer, NonNegativeCount, Text


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
        nonfinite: What to do if a shard's update has an infinite or NaN entry on two workers: end the run (`abort`), or
            leave the shard out of its step and count it (`drop`).
        staleness: None: every step waits for all its shards (synchronous, exact). A number s: workers never wait; a
            step uses updates computed at most s versions ago, and drops older ones (asynchronous).
        staleness_weight: Weight of an update that is t versions old: 1 / (1 + t) (`inverse`), or 1 (`constant`).
        compression: Compression of updates on their way to the server: none, rounding to `bf16`, or to `int8` in blocks
            with one scale each. The rounding error is added to the same worker's next update (error feedback), so
            the result depends on which worker computes which shard.
    """

    optimizer: Text = "Adam"
    lr: PositiveFloat = 1e-3
    options: dict[Text, bool | Integer | float | tuple[float, ...]] = Field(default_factory=dict)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_lr_fraction: float = Field(0.0, ge=0.0, le=1.0)
    warmup_steps: NonNegativeCount = 0
    clip_norm: PositiveFloat | None = None
    average: float = Field(0.0, ge=0.0, lt=1.0)
    nonfinite: Literal["abort", "drop"] = "abort"
    staleness: NonNegativeCount | None = None
    staleness_weight: Literal["inverse", "constant"] = "inverse"
    compression: Literal["none", "bf16", "int8"] = "none"

    @property
    def procedure(self) -> str:
        """How an outer step is made of many shards (`distmeta.training.steps.PROCEDURES`)."""
        return "synchronous" if self.staleness is None else "asynchronous"
