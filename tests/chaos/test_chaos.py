"""Runs under random faults end with the bits of undisturbed ones, their records whole, and leave nothing behind.

DISTMETA_CHAOS_SEED      seed of the faults; printed, random by default
DISTMETA_CHAOS_FAULTS    faults in all (60)
DISTMETA_CHAOS_KINDS     kinds of faults, with commas between them (all)

What a failed test leaves to be looked at lies in a folder whose name it prints.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distmeta.config import RunConfig
from distmeta.config.load import change, load_config, to_yaml
from distmeta.data.catalog import import_store

from ..waiting import until
from .faults import KINDS, Chaos, Kind, plan
from .place import ROOT, Place
from .records import differences, history, last_step
from .sessions import title
from .supervised import Run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(5400)]

FAULTS = int(os.environ.get("DISTMETA_CHAOS_FAULTS", "60"))
RUNS = 2
LAST_STEPS = 20
LEFT_TIMEOUT_S = 90.0
UNDISTURBED_TIMEOUT_S = 3000.0
COUNTED = (
    "restarts",
    "leader_lost",
    "retries",
    "copies",
    "resumes",
    "worker_died",
    "node_lost",
    "silent",
    "timed_out",
    "excluded",
)
ALL = [
    "seed=3",
    "outer.average=0.99",
    "engine.strategy=vmap",
    "runtime.workers=2..3",
    "runtime.leaders=2",
    "runtime.tolerance.heartbeat_timeout_s=5",
    "runtime.tolerance.max_worker_failures=8",
    "runtime.tolerance.max_shard_retries=8",
    "train.log_every=1",
    "checkpoint.every=5",
    "evaluation.every=25",
    "evaluation.tasks=12",
    "evaluation.final_tasks=12",
    "tracking.model=false",
]
SINUSOID = [
    *ALL,
    "name=sinusoid",
    "train.tasks_per_step=240",
    "runtime.shard_size=6",
    "algorithm.learner.phases.0.steps=5",
]
OMNIGLOT = [*ALL, "name=omniglot", "train.tasks_per_step=12", "runtime.shard_size=1", "model.filters=8"]


@dataclass(frozen=True)
class Ended:
    """A run at its end: the digest of its meta-parameters, the database of its records, how many steps it made."""

    digest: str
    database: Path
    steps: int


@pytest.fixture(scope="module")
def seed() -> int:
    found = int(os.environ.get("DISTMETA_CHAOS_SEED") or secrets.randbelow(1_000_000))
    print(f"\nDISTMETA_CHAOS_SEED={found} DISTMETA_CHAOS_FAULTS={FAULTS}", flush=True)
    return found


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short path, which is left if the test fails."""
    made = Path(tempfile.mkdtemp(prefix="dmc", dir="/tmp"))
    failed = request.session.testsfailed
    yield made
    if request.session.testsfailed == failed:
        shutil.rmtree(made)
    else:
        print(f"\nwhat the run wrote lies in {made}")


def test_a_sinusoid_run_bears_it(folder: Path, tmp_path: Path, seed: int) -> None:
    config = load_config(str(ROOT / "jobs" / "sinusoid.py:maml"), SINUSOID)
    bear(config, folder, tmp_path / "home", seed)


@pytest.mark.omniglot
def test_an_omniglot_run_bears_it(folder: Path, tmp_path: Path, data_dir: Path, seed: int) -> None:
    config = load_config(str(ROOT / "jobs" / "omniglot.py:maml"), [*OMNIGLOT, "train.budget_s=null"])
    import_store("omniglot", data_dir / "omniglot")
    bear(config, folder, tmp_path / "home", seed + 1)


def wanted_kinds() -> tuple[Kind, ...]:
    names = os.environ.get("DISTMETA_CHAOS_KINDS", ",".join(KINDS)).split(",")
    assert set(names) <= set(KINDS), f"DISTMETA_CHAOS_KINDS: allowed: {', '.join(KINDS)}"
    return tuple(kind for kind in KINDS if kind in names)


def bear(config: RunConfig, folder: Path, home: Path, seed: int) -> None:
    """Run a configuration under faults and compare it with itself undisturbed."""
    place = Place(folder, nodes=3, home=home)
    try:
        place.start()
        ended = disturbed(config, place, folder, seed)
        left = place.sessions.wait_for_the_end(LEFT_TIMEOUT_S)
        assert not left, "processes are left behind:\n" + "\n".join(left)
        undisturbed = alone(config, place, folder, ended.steps)
    finally:
        place.remove()
    assert ended.digest == undisturbed.digest
    status, found = history(ended.database)
    _, wanted = history(undisturbed.database)
    assert not (told := differences(found, wanted)), "the records differ:\n" + "\n".join(told)
    assert status == "FINISHED"
    assert not list(folder.glob("mlflow-unsent/*")), "values were left unsent"


def disturbed(config: RunConfig, place: Place, folder: Path, seed: int) -> Ended:
    """The run under faults, and the end of its place; a table of what happened is printed."""
    kinds = tuple(kind for kind in wanted_kinds() if kind != "disk_full" or place.can_be_full)
    faults = plan(seed, FAULTS // RUNS, kinds)
    run = Run(place, config, folder)
    chaos = Chaos(place, run)
    print(f"\n{config.name}: {len(faults)} faults, seed {seed}, in {folder}", flush=True)
    began = time.monotonic()
    chaos.go(faults)
    # Beyond what any driver has made, also one that was killed before it saved.
    steps = max(run.step(), last_step(place.database)) + LAST_STEPS
    chaos.tell(f"ends at step {steps}")
    chaos.finish(steps)
    took_s = time.monotonic() - began
    state = run.state()
    counts = {name: int(state["progress"].get(f"count/{name}", 0)) for name in COUNTED}
    rows = {**chaos.counts, "faults": sum(chaos.counts.values()), "drivers": run.lives, "refused": run.refusals}
    print(f"{config.name}: {steps} steps in {took_s:.0f} s")
    for name, count in {**rows, **counts}.items():
        print(f"  {name:<22s} {count:4d}")
    for _ in until(LEFT_TIMEOUT_S, "workers of the run are left", every_s=0.5):
        workers = [worker for name in place.nodes for worker in place.actors(name)]
        if not workers:
            break
    else:
        raise AssertionError([title(worker) for worker in workers])
    place.stop()
    return Ended(state["digest"], place.database, steps)


def alone(config: RunConfig, place: Place, folder: Path, steps: int) -> Ended:
    """The undisturbed run: one process, no cluster."""
    database = folder / "undisturbed.db"
    where = [f"tracking.uri=sqlite:///{database}", f"checkpoint.path={folder / 'undisturbed'}", "checkpoint.every=1000"]
    job = folder / "undisturbed.yaml"
    job.write_text(to_yaml(change(config, [f"train.steps={steps}", "runtime.executor=local", *where])))
    began = time.monotonic()
    session = place.sessions.start("undisturbed", [sys.executable, "-m", "distmeta", "train", str(job)])
    for _ in until(UNDISTURBED_TIMEOUT_S, "the undisturbed run does not end", every_s=0.5):
        if not session.alive:
            break
    assert session.leader.returncode == 0, session.log.read_text()[-4000:]
    print(f"{config.name}: undisturbed {time.monotonic() - began:.0f} s", flush=True)
    lines = dict(line.split(maxsplit=1) for line in session.log.read_text().splitlines() if line.startswith("digest"))
    return Ended(lines["digest"].strip(), database, steps)
