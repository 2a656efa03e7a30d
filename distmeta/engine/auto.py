"""`engine.strategy = auto`: choose a strategy by the network, the size of a task and the kind of device alone.

Nothing is timed and nothing is looked up, so that a run gives the same bits whatever the load of the machine, the
number of threads, the length of the run, and what ran before it. `distmeta bench engine` is where the rule comes from:

    CPU, no filters (fully connected)           vmap    10 to 15 times as fast as a loop
    CPU, filters, few examples in a task        vmap    1.2 to 1.9 times as fast
    CPU, filters, many examples in a task       loop    up to 3 times as fast
    CUDA                                        vmap    2.6 to 72 times as fast, on all rows of the table (an H200)

Compiled strategies are faster still, and are asked for by name: compiling takes longer than a short run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from distmeta.config import EngineConfig
from distmeta.core.types import Episode, Params

FEW_EXAMPLES = {"cpu": 32.0, "cuda": math.inf}
"""Support and query examples of a task up to which `vmap` is the faster one for networks with filters, by kind of
device."""


@dataclass(frozen=True)
class Choice:
    """The chosen strategy and why.

    Attributes:
        strategy, chunk, memory: See `EngineConfig`.
        seconds: Seconds per task of every candidate that was timed.
        failures: Error message of every candidate that raised.
        took_s: Seconds that the choice took.
        compiled: Whether compiled strategies were among the candidates.
        remembered: Whether the choice comes from an earlier run.
    """

    strategy: str
    chunk: int | None
    memory: str
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0
    compiled: bool = False
    remembered: bool = False

    def apply(self, config: EngineConfig) -> EngineConfig:
        """The configuration with the chosen strategy, chunk and memory."""
        chosen = {"strategy": self.strategy, "chunk": self.chunk, "memory": self.memory}
        return EngineConfig.model_validate({**config.model_dump(), **chosen})

    @property
    def reason(self) -> str:
        """One line for the log."""
        by_time = sorted(self.seconds, key=self.seconds.__getitem__)
        times = ", ".join(f"{name} {1000 * self.seconds[name]:.3g}" for name in by_time)
        failed = "".join(f"; {name} failed: {message}" for name, message in self.failures.items())
        if not times:
            return f"engine: {self.strategy}, by the network, the size of a task and the device"
        source = "chosen by an earlier run" if self.remembered else f"chosen in {self.took_s:.1f} s"
        return f"engine: {self.strategy}, {source} (milliseconds per task: {times}){failed}"


def choose_by_shapes(
    config: EngineConfig, meta: Params, episodes: Episode, *, vmap: bool = True, device: str = "cpu"
) -> Choice:
    """Choose by the shapes of the meta-parameters and of any task, and the kind of device.

    Args:
        config: The fields that are not chosen.
        meta: Meta-parameters.
        episodes: Training tasks, at least one.
        vmap: Whether the network can be run under `vmap`.
        device: Where shards are computed: `cpu`, `cuda` or `cuda:N`; other kinds follow the rule of CPUs.
    """
    few_examples = FEW_EXAMPLES.get(device.partition(":")[0], FEW_EXAMPLES["cpu"])
    has_filters = any(tensor.dim() == 4 for tensor in meta.values())
    num_examples = sum(batch.inputs.shape[1] for batch in episodes.roles.values())
    strategy = "loop" if not vmap or (has_filters and num_examples > few_examples) else "vmap"
    return Choice(strategy, config.chunk, config.memory)
