"""Run the fuzzer with fresh seeds until the time is over: `python tests/fuzz/loop.py --minutes 30 --out runs/fuzz`.

Each round is a process of pytest with one seed. It notes every input before it is run, so that a crash or a hang of the
whole process is found too. Failing inputs are kept in folders, with the command to repeat them.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
STALL_S = 120.0
"""A process whose last input is older than this hangs where no alarm reaches it."""
START_S = 300.0
POLL_S = 0.5


@dataclass
class Tally:
    """Numbers of inputs and problems.

    Attributes:
        inputs: Inputs that were run.
        rounds: Processes that were started.
        outcomes: How many inputs ended with each exit code; `call` for those of functions.
        problems: What was wrong, in the order it was seen.
    """

    inputs: int = 0
    rounds: int = 0
    outcomes: collections.Counter[int | str] = field(default_factory=collections.Counter)
    problems: list[dict[str, Any]] = field(default_factory=list)

    def add(self, seed: int, journal: Path) -> None:
        """Count the lines of a round's journal."""
        for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
            entry = json.loads(line)
            if "kind" in entry:
                self.problems.append({"seed": seed, **entry})
            elif "outcome" in entry:
                self.outcomes[entry["outcome"]] += 1
            else:
                self.inputs += 1

    def show(self) -> None:
        counts = collections.Counter(problem["kind"] for problem in self.problems)
        print(f"{'inputs':<12} {self.inputs} in {self.rounds} rounds")
        ended = sorted((str(code), count) for code, count in self.outcomes.items())
        print(f"{'exit codes':<12} {', '.join(f'{code}: {count}' for code, count in ended)}")
        for kind in ("traceback", "hang", "exit code", "output", "write", "connection", "signal", "crash", "round"):
            print(f"{kind:<12} {counts[kind]}")
        alike = collections.Counter(map(_cause, self.problems))
        first = {_cause(problem): problem for problem in reversed(self.problems)}
        for cause, problem in reversed(first.items()):
            print(f"\n{problem['kind']}: {problem.get('input', '-')}, seed {problem['seed']}")
            print(f"  times:   {alike[cause]}")
            print(f"  command: {problem.get('command', '-')!a}")
            print(f"  input:   {problem.get('kept', '-')}")
            print("  " + ascii(problem["text"].strip()[-600:]).replace("\\n", "\n  "))


def _cause(problem: dict[str, Any]) -> tuple[str, ...]:
    """What problems of one cause have in common."""
    lines = problem["text"].strip().splitlines() or [""]
    return problem["kind"], str(problem.get("input")), lines[-1][:100]


def run_round(seed: int, out: Path, end: float, tally: Tally, paths: list[str]) -> None:
    """One process of pytest, ended when the time is over or when it hangs."""
    journal, log = out / f"{seed}.jsonl", out / f"{seed}.log"
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", "--hypothesis-profile=long"]
    environment = {**os.environ, "DISTMETA_FUZZ_JOURNAL": str(journal)}
    tally.rounds += 1
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, f"--hypothesis-seed={seed}", *paths],
            stdout=sink,
            stderr=sink,
            env=environment,
            cwd=FOLDER.parents[1],
        )
        start = time.time()
        ended = None
        try:
            while (ended := process.poll()) is None and time.monotonic() < end and not _is_stalled(journal, start):
                time.sleep(POLL_S)
        finally:
            process.kill()
            process.wait()
    tally.add(seed, journal)
    problem = {"seed": seed, **_last(journal)}
    if ended is None and time.monotonic() < end:
        tally.problems.append({**problem, "kind": "hang", "text": f"no input for {STALL_S:g} s"})
    elif ended is not None and ended < 0:
        tally.problems.append({**problem, "kind": "crash", "text": f"signal {-ended}"})
    elif ended:
        tally.problems.append({**problem, "kind": "round", "text": log.read_text(errors="replace")})


def _is_stalled(journal: Path, start: float) -> bool:
    if journal.exists():
        return time.time() - journal.stat().st_mtime > STALL_S
    return time.time() - start > START_S


def _last(journal: Path) -> dict[str, Any]:
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    return next((entry for entry in map(json.loads, reversed(lines)) if "command" in entry), {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--seed", type=int, help="one round with this seed")
    parser.add_argument("paths", nargs="*", default=[str(FOLDER)], help="test files")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the round's process too
    options.out.mkdir(parents=True, exist_ok=True)
    out, tally, end = options.out.resolve(), Tally(), time.monotonic() + 60 * options.minutes
    while time.monotonic() < end and (options.seed is None or tally.rounds == 0):
        seed = secrets.randbelow(2**32) if options.seed is None else options.seed
        run_round(seed, out, end, tally, options.paths)
        if tally.inputs == 0:
            break
    tally.show()
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
