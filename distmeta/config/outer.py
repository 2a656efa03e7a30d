"""The outer (server) step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from distmeta.config.base import Frozen


class OuterConfig(Frozen):
    """The outer (server) step.

    Attributes:
        optimizer: Any optimizer of `torch.optim`, by its class name.
        lr: Outer learning rate.
        options: Further arguments of the optimizer, e.g. `{"betas": [0.9, 0.99]}`.
        schedule: Course of the rate over `train.steps`: to `final_lr_fraction * lr` along a line or a half cosine.
        final_lr_fraction: Where the schedule ends, as a fraction of `lr`.
        warmup_steps: Steps over which the rate rises linearly from 0.
        clip_norm: Largest global norm of the outer gradient; None leaves it as it is.
        average: Decay of an exponential moving average of the meta-parameters, which is then what is evaluated and
            exported; 0 switches it off (Polyak & Juditsky 1992).
        nonfinite: What to do about a shard whose update has an entry that is infinite or not a number, on two workers:
            end the run (`abort`), or leave the shard out of its step and count it (`drop`).
        staleness: None: every step waits for all its shards (synchronous, exact). A number s: workers never wait; a
            step takes updates that were computed at most s versions ago, and drops older ones (asynchronous).
        staleness_weight: Weight of an update that is t versions old: 1 / (1 + t) (`inverse`), or 1 (`constant`).
        compression: How updates travel to the server: as they are, rounded to `bf16`, or to `int8` in blocks with a
            scale each. What rounding loses is added to the same worker's next update (error feedback), so results
            depend on who computes what.
    """

    optimizer: str = "Adam"
    lr: PositiveFloat = 1e-3
    options: dict[str, bool | int | float | tuple[float, ...]] = Field(default_factory=dict)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_lr_fraction: float = Field(0.0, ge=0.0, le=1.0)
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None
    average: float = Field(0.0, ge=0.0, lt=1.0)
    nonfinite: Literal["abort", "drop"] = "abort"
    staleness: NonNegativeInt | None = None
    staleness_weight: Literal["inverse", "constant"] = "inverse"
    compression: Literal["none", "bf16", "int8"] = "none"
