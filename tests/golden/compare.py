"""Compare the golden runs of a commit with those of the working tree, bit for bit, on this machine.

python tests/golden/compare.py COMMIT
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def outcomes(checkout: Path, home: Path) -> dict[str, Any]:
    """The outcomes of a checkout's own golden runs, in a process and a home folder of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DISTMETA_HOME": str(home), "PYTHONPATH": str(checkout)}
    script = checkout / "tests" / "golden" / "digests.py"
    done = subprocess.run(
        [sys.executable, str(script)], cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def checked_out(commit: str, folder: Path) -> Path:
    """The files of a commit, below `folder`."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=_ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


SCORE_TOLERANCE = 1e-6
"""Scores of equal meta-parameters may differ so much: how they are computed is no part of a run's identity."""


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the golden runs that both have and whose digests differ, or whose scores do by more than a rounding."""
    return [
        name
        for name in before.keys() & after.keys()
        if before[name]["digest"] != after[name]["digest"]
        or score_difference(before[name], after[name]) > SCORE_TOLERANCE
    ]


def score_difference(before: dict[str, Any], after: dict[str, Any]) -> float:
    """The largest difference between two runs' scores; infinite if they have others."""
    old, new = before["scores"], after["scores"]
    if {name: len(curve) for name, curve in old.items()} != {name: len(curve) for name, curve in new.items()}:
        return math.inf
    return max((abs(x - y) for name in old for x, y in zip(old[name], new[name], strict=True)), default=0.0)


def main(commit: str) -> int:
    """Print a table; returns the number of golden runs that differ, or 1 if nothing could be compared."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        before = outcomes(checked_out(commit, home / "base"), home / "home-base")
        after = outcomes(_ROOT, home / "home")
    different, both = differences(before, after), before.keys() & after.keys()
    for name in sorted(before.keys() | after.keys()):
        old, new = (found[name]["digest"][:16] if name in found else "-" * 16 for found in (before, after))
        verdict = "differs" if name in different else "equal" if name in both else "only one"
        size = score_difference(before[name], after[name]) if name in both else 0.0
        print(f"{name:16} {old}  {new}  {verdict}{f', scores by {size:.0e}' if size else ''}")
    return len(different) if both else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/golden/compare.py COMMIT")
    sys.exit(main(sys.argv[1]))
