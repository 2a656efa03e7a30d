"""Training runs on the head of a `Cluster`, watched through their checkpoints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from distmeta.config import RunConfig
from distmeta.config.load import change, load_config, to_yaml
from distmeta.training import train

from ..waiting import until
from .network import Host, titles
from .raylets import ROOT, Cluster

JOB = ROOT / "jobs" / "sinusoid.py:maml"
RUN_TIMEOUT_S = 240.0

_AT_WORK = re.compile(r"ray::\w+\.(run|follow)\b")


def sinusoid(folder: Path, name: str, *changes: str) -> RunConfig:
    """The sinusoid job with three shards a step, nothing but training, and no end unless `changes` give it one."""
    short = [
        f"name={name}",
        "train.steps=1000000",
        "train.tasks_per_step=12",
        "train.log_every=10",
        "runtime.shard_size=4",
        "engine.strategy=vmap",
        "evaluation.every=0",
        "evaluation.final_tasks=0",
        "tracking.kind=none",
        "checkpoint.every=5",
        f"checkpoint.path={folder}",
    ]
    return load_config(str(JOB), [*short, *changes])


def undisturbed(config: RunConfig, steps: int) -> str:
    """The digest after so many steps of this run in one process."""
    local = ("runtime.executor=local", "runtime.leaders=auto")
    changes = [f"name={config.name}-oracle", f"train.steps={steps}", *local, "tracking.kind=none"]
    return train(change(config, [*changes, f"checkpoint.every={steps}"]), quiet=True).digest


class Driver:
    """`distmeta train` on the cluster's head. A context manager: at its end the process is gone.

    Args:
        cluster: Where the run finds its workers.
        config: The run.
    """

    def __init__(self, cluster: Cluster, config: RunConfig) -> None:
        self._newest, self._since, self._longest = 0, time.monotonic(), 0.0
        self._folder = Path(config.checkpoint.path) / config.name
        job = Path(config.checkpoint.path) / f"{config.name}.yaml"
        job.write_text(to_yaml(change(config, [f"runtime.address={cluster.address}"])))
        command = [sys.executable, "-m", "distmeta", "train", str(job), "--json"]
        self._log = job.with_suffix(".log")
        with self._log.open("w") as log:
            # A session of its own: when a driver is killed, Ray ends its whole process group with it.
            self._process = subprocess.Popen(
                cluster.head.inside(*command),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=job.parent,
                env=cluster.environment(),
                start_new_session=True,
            )

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def checkpoint(self) -> tuple[int, str]:
        """The newest checkpoint's step and digest; step 0 where there is none."""
        for path in sorted(self._folder.glob("step-*/state.json"), reverse=True):
            with contextlib.suppress(FileNotFoundError):  # older ones are deleted meanwhile
                state = json.loads(path.read_text())
                return state["step"], state["digest"]
        return 0, ""

    def reach(self, more: int = 1, timeout_s: float = RUN_TIMEOUT_S) -> float:
        """Wait until the run has saved at least so many steps more than now. Returns the seconds."""
        wanted = self.checkpoint()[0] + more
        for passed in until(timeout_s, f"no step {wanted}", every_s=0.05):
            if self.checkpoint()[0] >= wanted:
                return passed
            self._look()
        raise AssertionError

    def watch(self, seconds: float) -> None:
        """Look at the run for a while."""
        for passed in until(seconds + RUN_TIMEOUT_S, "", every_s=0.05):
            self._look()
            if passed > seconds:
                return

    def pause(self) -> float:
        """The longest time that passed without a step saved since this was asked last, in seconds.

        What passes while nobody looks, in one of these methods, counts only where nothing was saved in it.
        """
        self._look()
        longest, self._longest, self._since = self._longest, 0.0, time.monotonic()
        return longest

    def wait_for_work_on(self, *hosts: Host) -> float:
        """Wait until workers on each of the hosts have been seen several times with shards in their hands.

        Returns:
            Seconds.
        """
        left = {host.namespace: 5 for host in hosts}
        for passed in until(RUN_TIMEOUT_S, f"no work on {', '.join(host.name for host in hosts)}", every_s=0.02):
            for namespace in left:
                left[namespace] -= _at_work(namespace)
            if max(left.values()) <= 0:
                return passed
            self._look()
        raise AssertionError

    def wait_for_no_work_on(self, host: Host, quiet_s: float = 3.0) -> float:
        """Wait until no worker on the host has been seen with a shard for a while.

        Returns:
            Seconds until the last one was seen.
        """
        last = 0.0
        for passed in until(RUN_TIMEOUT_S, f"work goes on at {host.name}", every_s=0.02):
            if _at_work(host.namespace):
                last = passed
            elif passed - last > quiet_s:
                return last
            self._look()
        raise AssertionError

    def result(self) -> dict[str, Any]:
        """Wait for the end of the run. Returns what it prints."""
        output, _ = self._process.communicate(timeout=RUN_TIMEOUT_S)
        assert self._process.returncode == 0, self._log.read_text()
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found

    def kill(self) -> tuple[int, str]:
        """End the run by force. Returns the step and the digest of its last checkpoint."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self.checkpoint()

    def _look(self) -> None:
        now, step = time.monotonic(), self.checkpoint()[0]
        if step > self._newest:
            self._newest, self._since = step, now
        self._longest = max(self._longest, now - self._since)
        if self._process.poll() is not None:
            raise AssertionError(f"the run has ended: {self._log.read_text()[-3000:]}")


def _at_work(namespace: str) -> bool:
    return any(_AT_WORK.match(title) for title in titles(namespace))
