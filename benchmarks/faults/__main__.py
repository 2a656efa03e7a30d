"""The same training under the same faults, by distmeta and by Ray Train: pauses, work done again, the bits at the end.

Two workers on this machine; a worker is killed, a worker is stopped so that it hangs, the driver is killed with all
that it has started, and started again at once. A checkpoint every ten steps.

    python -m benchmarks.faults
    python -m benchmarks.faults --systems distmeta --forms meta --rounds 1 --steps 60 --seed 7
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.job import FORMS
from benchmarks.faults.systems import SYSTEMS, System
from benchmarks.faults.trace import KINDS, Fault, Training, trace
from benchmarks.report import Report
from benchmarks.scripts import options, run_main, settings
from distmeta.core.errors import UserError
from distmeta.training.table_result import markdown_table


def run(system: System, form: str, steps: int, faults: Sequence[Fault], folder: Path) -> dict[str, Any]:
    """One training: its outcomes, digest, seconds of a step."""
    training, outcomes = Training(system, folder, form, steps), []
    training.start()
    try:
        for fault in faults:
            if not training.until(fault.step):
                break
            outcomes.append(asdict(training.hit(fault)))
        finished = training.wait()
    finally:
        training.end()
    if not finished and not faults:
        said = (folder / "output").read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"{system.title} ends undisturbed: {said}", where=form, allowed="an end after all steps")
    return {"outcomes": outcomes, "digest": training.digest, "step_s": training.step_s, "finished": finished}


def rows(found: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each system, form and kind of fault."""
    lines = []
    for each in found:
        same = "yes" if each["digest"] is not None and each["digest"] == each["undisturbed"] else "no"
        for kind in KINDS:
            outcomes = [outcome for outcome in each["outcomes"] if outcome["kind"] == kind]
            pauses = [outcome["pause_s"] for outcome in outcomes if outcome["pause_s"] is not None]
            again = [outcome["redone"] for outcome in outcomes]
            shown = "does not go on" if outcomes else "did not happen"
            if outcomes and len(pauses) == len(outcomes):
                shown = f"{statistics.fmean(pauses):.1f} s"
            lost = statistics.fmean(again) * each["step_s"] if again else 0.0
            lines.append(
                {
                    "training": each["form"],
                    "system": each["system"],
                    "fault": kind,
                    "goes on after": shown,
                    "work done again": f"{lost:.1f} s",
                    "same bits at the end": same,
                }
            )
    return lines


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--steps", type=int, default=120, metavar="N")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="how often each kind of fault happens")
    parser.add_argument("--seed", type=int, default=0, help="of the trace")
    args = parser.parse_args()
    faults, found = trace(args.seed, args.rounds, args.steps), []
    report = Report("faults", args.out)
    for form in args.forms:
        for name in args.systems:
            with tempfile.TemporaryDirectory(prefix="dmf") as folder:
                alone = run(SYSTEMS[name], form, args.steps, (), Path(folder) / "alone")
                disturbed = run(SYSTEMS[name], form, args.steps, faults, Path(folder) / "disturbed")
            found.append({"form": form, "system": SYSTEMS[name].title, **disturbed, "undisturbed": alone["digest"]})
            report.write(settings=settings(args), faults=[asdict(fault) for fault in faults], results=found)
    print("\n".join(markdown_table(rows(found))))


if __name__ == "__main__":
    run_main(main)
