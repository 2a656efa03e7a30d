"""The engine of another commit beside that of this checkout, turn by turn, so that no drift of the machine counts.

    python -m benchmarks.engine.versions COMMIT
    python -m benchmarks.engine.versions COMMIT --rows sine_25x1,protonet_conv4 --contenders vmap --pairs 8

A process of each version holds the same row of `distmeta bench engine`. They take turns of a second or less, each pair
of turns in the other order, and the ratio of a pair is that of seconds before to seconds now: above 1, this checkout is
faster. Two processes of one version differ, too, by where the system has put their memory and threads: so there are
several of each, one pair after the other. Printed are the median of all ratios and its 95% interval (order statistics
of the binomial distribution). The plain loop, whose code is hardly distmeta's, shows how well this machine can tell.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.engine.common.contenders import STRATEGIES, check_contenders
from benchmarks.engine.common.peers import PLAIN_LOOP
from benchmarks.engine.common.problems import PROBLEMS, find_problem
from benchmarks.report import Report, progress
from benchmarks.scripts import CHECKOUT, options, run_main
from benchmarks.timing import repeats_for
from distmeta.cli.output import print_table
from distmeta.core.errors import UserError

TURN_S = 0.4
_SCRIPT = Path(__file__).with_name("version_process.py")


class Version:
    """A process with one version of the package, as a context manager."""

    def __init__(self, root: Path, row: str, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root)}
        command = [sys.executable, "-P", str(_SCRIPT), row, str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=root, env=environment, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def seconds(self, contender: str, repeats: int) -> float:
        """Seconds of so many runs.

        Raises:
            RuntimeError: The contender failed.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"contender": contender, "repeats": repeats}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "the process has ended"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return float(answer["seconds"])


def ratios(before: Version, now: Version, contender: str, rounds: int) -> list[float]:
    """Seconds before over seconds now, for each pair of turns."""
    first = max(version.seconds(contender, 1) for version in (before, now))
    repeats = repeats_for(max(before.seconds(contender, 1), now.seconds(contender, 1), first / 100), TURN_S)
    found = []
    for turn in range(rounds):
        order = (before, now) if turn % 2 else (now, before)
        seconds = {id(version): version.seconds(contender, repeats) for version in order}
        found.append(seconds[id(before)] / seconds[id(now)])
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of the median: the order statistics between which it lies so often; all of them of five or fewer."""
    ordered, count = sorted(values), len(values)
    below, tail = 0, 0.5**count
    while below + 1 < count // 2 and tail + math.comb(count, below + 1) * 0.5**count <= 0.025:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    return ordered[below], ordered[count - 1 - below]


def shown(values: Sequence[float]) -> str:
    low, high = interval(values)
    return f"{median(values):.3f} ({low:.3f} to {high:.3f})"


def checked_out(commit: str, folder: Path) -> Path:
    """The files of a commit of this checkout, below a folder.

    Raises:
        UserError: There is no such commit.
    """
    found = subprocess.run(["git", "archive", commit], cwd=CHECKOUT, capture_output=True)
    if found.returncode:
        what = found.stderr.decode(errors="replace").strip().splitlines()[-1]
        raise UserError(what, where="COMMIT", allowed="a commit of this checkout")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=found.stdout, check=True)
    return folder


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("commit")
    parser.add_argument("--rows", default=",".join(PROBLEMS))
    parser.add_argument("--contenders", default=",".join((PLAIN_LOOP, *STRATEGIES)))
    parser.add_argument("--pairs", type=int, default=4, help="processes of each version")
    parser.add_argument("--rounds", type=int, default=6, help="turns of a process with a contender")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    problems = [find_problem(name, "--rows") for name in args.rows.split(",")]
    contenders = check_contenders(args.contenders.split(","), "--contenders")
    report, rows = Report("engine_versions", args.out), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        base.mkdir()
        checked_out(args.commit, base)
        for problem in problems:
            found = {contender: list[float]() for contender in contenders}
            failed: dict[str, str] = {}
            for pair in range(args.pairs):
                progress(f"{problem.name}: pair {pair + 1} of {args.pairs}")
                with (
                    Version(base, problem.name, args.threads) as before,
                    Version(CHECKOUT, problem.name, args.threads) as now,
                ):
                    for contender in (name for name in contenders if name not in failed):
                        try:
                            found[contender] += ratios(before, now, contender, args.rounds)
                        except RuntimeError as error:
                            failed[contender] = str(error)
            for contender, values in found.items():
                text = f"failed: {failed[contender]}" if contender in failed else shown(values)
                row = {"row": problem.name, "contender": contender, "before / now": text, "ratios": values}
                rows.append(row)
                progress(f"{problem.name}: {contender}: {text}")
            report.write(commit=args.commit, rows=rows)
    print_table([{name: value for name, value in row.items() if name != "ratios"} for row in rows])


if __name__ == "__main__":
    run_main(main)
