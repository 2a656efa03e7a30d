"""Programs that stand for a method: values that are pure functions of snapshot and shard, and every way to fail."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from distmeta.core.errors import UserError
from distmeta.core.types import Params, Report, Shard, Snapshot, TaskSpec, Update, Work

Trouble = Literal[
    "none",
    "die",
    "die_always",
    "hang",
    "raise",
    "user_error",
    "build_user_error",
    "build_die",
    "all_but_one_die",
    "nonfinite",
]


@dataclass(frozen=True)
class FakeProgram:
    """Updates by `params * (1 + sum of seeds)`; work `about` reports on the worker instead."""

    recipe: FakeRecipe
    prepared: list[int]
    snapshots: list[Snapshot]
    healthy: bool = True

    def prepare(self, work: Work, shard: Shard) -> None:
        self.prepared.append(shard.index)

    def run(self, work: Work, snapshot: Snapshot, shard: Shard) -> Any:
        if shard.index == self.recipe.shard or not self.healthy:
            self._misbehave()
        time.sleep(self.recipe.seconds)
        self.snapshots.append(snapshot)  # kept, so that no two ever have one identity
        if work.name == "about":
            return {
                "pid": os.getpid(),
                "prepared": tuple(self.prepared),
                "snapshots": len({id(one) for one in self.snapshots}),
                "threads": torch.get_num_threads(),
                "writable": snapshot.params["scale"].numpy().flags.writeable,
            }
        factor: float = 1 + sum(spec.seed for spec in shard.specs)
        if shard.index == self.recipe.shard and self.recipe.trouble == "nonfinite":
            factor = float("nan")
        grad = {name: tensor * factor for name, tensor in snapshot.params.items()}
        return Report(snapshot.version, shard.index, Update(grad, float(len(shard.specs)), {"loss": 0.5 * factor}))

    def timing(self) -> Mapping[str, float]:
        return {"data_wait_s": 0.25, "compute_s": 0.5}

    def close(self) -> None:
        pass

    def _misbehave(self) -> None:
        trouble = self.recipe.trouble
        if trouble == "raise":
            raise ValueError("boom at this shard")
        if trouble == "user_error":
            raise UserError("'x' is no image", where="store", allowed="PNG")
        if trouble in ("die_always", "all_but_one_die") or (trouble == "die" and self.recipe.first_time()):
            time.sleep(0.1)  # else the answer before this one may die with the process
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "hang" and self.recipe.first_time():
            time.sleep(3600)


@dataclass(frozen=True)
class FakeRecipe:
    """Makes a `FakeProgram` that is in `trouble` at `shard`; what happens once leaves a marker in `folder`."""

    trouble: Trouble = "none"
    shard: int = -1
    folder: str = ""
    seconds: float = 0.0

    def build(self) -> FakeProgram:
        if self.trouble == "build_user_error":
            raise UserError("no store 'x'", where="tasks.store")
        if self.trouble == "build_die" and self.first_time():
            os.kill(os.getpid(), signal.SIGKILL)
        return FakeProgram(self, [], [], self.trouble != "all_but_one_die" or self.alone())

    def alone(self) -> bool:
        """True for the first process that asks, as long as it lives."""
        lock = os.open(Path(self.folder) / "lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def first_time(self) -> bool:
        try:
            (Path(self.folder) / f"{self.trouble}-{self.shard}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def make_shards(count: int, first_seed: int = 0) -> list[Shard]:
    return [
        Shard(
            index, tuple(TaskSpec(2 * index + offset, first_seed + 10 * index + offset, "train") for offset in range(2))
        )
        for index in range(count)
    ]


def make_params() -> Params:
    generator = torch.Generator().manual_seed(0)
    return {
        "body.weight": torch.randn(64, 300, generator=generator).T,
        "body.bias": torch.randn(7, generator=generator, dtype=torch.float64),
        "scale": torch.randn((), generator=generator),
        "count": torch.arange(-3, 4),
        "half": torch.randn(5, 3, generator=generator).bfloat16(),
        "empty": torch.zeros(0, 4),
    }


def bits(params: Params) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What makes two sets of parameters the same: names, types, shapes, bytes."""
    return {
        name: (
            str(tensor.dtype),
            tuple(tensor.shape),
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in params.items()
    }


def expected_bits(snapshot: Snapshot, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
    """What `update` gives for each shard, computed without any executor."""
    program = FakeRecipe().build()
    for shard in shards:
        yield shard.index, bits(program.run(Work("update"), snapshot, shard).update.grad)
