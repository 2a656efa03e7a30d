"""Run all golden runs of this checkout and print their outcomes as one JSON object.

python tests/golden/digests.py [NAME ...]
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def main(names: list[str]) -> None:
    """Print `{name: outcome}` for these golden runs, or for all."""
    sys.path.insert(0, str(_ROOT))  # this checkout's package and tests, whatever is installed
    from tests.golden.cases import CASES, run_case

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        outcomes = {name: dataclasses.asdict(run_case(name, Path(folder))) for name in names or CASES}
    print(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
