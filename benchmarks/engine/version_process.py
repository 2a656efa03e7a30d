"""A process of `benchmarks.engine.versions`: runs contenders of one row when it is told to.

python -P version_process.py ROW THREADS, where `distmeta` and `benchmarks` are those of the version to measure. Each
line of its input names a contender and how often to run it; each line of its output has the seconds, or why it failed.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from benchmarks.engine.common.contenders import Contender, make_contender, reason_of
from benchmarks.engine.common.problems import PROBLEMS
from benchmarks.engine.common.workload import make_workload
from distmeta.engine.precision import library_precision


def main(row: str, threads: int) -> None:
    torch.set_num_threads(threads)
    workload, made = make_workload(PROBLEMS[row].config), dict[str, Contender]()
    with library_precision("float32"):
        for line in sys.stdin:
            request: dict[str, Any] = json.loads(line)
            name = request["contender"]
            try:
                if name not in made:
                    made[name] = make_contender(name, workload, threads, threads)
                    made[name].run()
                started = time.perf_counter()
                for _ in range(request["repeats"]):
                    made[name].run()
                answer: dict[str, object] = {"seconds": time.perf_counter() - started}
            except Exception as error:  # a compiler may raise anything
                answer = {"error": reason_of(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
