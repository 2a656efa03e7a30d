"""What `bench engine` found: the numbers of each contender on each row, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.engine.agreement import Agreement
from benchmarks.engine.contenders import display
from benchmarks.engine.peers import PEERS, PLAIN_LOOP
from benchmarks.timing import median

OK, DISAGREES, FAILED, LEFT_OUT = "ok", "disagrees", "failed", "left out"


@dataclass(frozen=True)
class Entry:
    """One contender on one row.

    Attributes:
        contender: Its name.
        status: `ok`, `disagrees` (with the reference: not timed), `failed` or `left out`.
        reason: Why there are no numbers.
        threads: Intra-op threads of a peer (the better number of them), lanes of the engine.
        agreement: How far its gradient is from the reference.
        first_s: Seconds of the first call, compiling included.
        seconds: Seconds of one run, in each round.
        peak_mib: Peak memory above the start, where it was asked for.
        choice: What `auto` chose.
    """

    contender: str
    status: str
    reason: str = ""
    threads: int = 0
    agreement: Agreement | None = None
    first_s: float | None = None
    seconds: tuple[float, ...] = ()
    peak_mib: float | None = None
    choice: dict[str, Any] = field(default_factory=dict)

    @property
    def run_s(self) -> float | None:
        """Median seconds of a run."""
        return median(list(self.seconds)) if self.seconds else None


@dataclass(frozen=True)
class Row:
    """All contenders on one problem.

    Attributes:
        name, about: Of the problem.
        num_tasks: T.
        gflop: Work of one run in 1e9 operations, counted on the plain loop.
        peak_gflops: Matrix-product peak in GFLOP/s before and after the row.
        entries: The contenders.
    """

    name: str
    about: str
    num_tasks: int
    gflop: float
    peak_gflops: tuple[float, float]
    entries: tuple[Entry, ...]

    @property
    def disagreeing(self) -> list[str]:
        """The contenders that disagree with the reference."""
        return [entry.contender for entry in self.entries if entry.status == DISAGREES]

    def run_s(self, contender: str) -> float | None:
        """Median seconds of a run of a contender; None if it has none."""
        return next((entry.run_s for entry in self.entries if entry.contender == contender), None)

    def best_peer_s(self) -> float | None:
        """Seconds of the fastest peer, the plain loop among them."""
        return min((run_s for name in PEERS if (run_s := self.run_s(name)) is not None), default=None)

    def numbers(self, entry: Entry) -> dict[str, float | None]:
        """What follows from a contender's seconds: speed, ratios, operations per second and their share of the peak."""
        run_s = entry.run_s
        gflops = None if run_s is None else self.gflop / run_s
        return {
            "run_s": run_s,
            "tasks_per_s": None if run_s is None else self.num_tasks / run_s,
            "x_plain_loop": ratio(self.run_s(PLAIN_LOOP), run_s),
            "x_best_peer": ratio(self.best_peer_s(), run_s),
            "gflops": gflops,
            "share_of_peak": None if gflops is None else gflops / max(self.peak_gflops),
        }

    def table(self) -> list[dict[str, object]]:
        """The rows of the table for people."""
        shown: list[dict[str, object]] = []
        for entry in self.entries:
            found = self.numbers(entry)
            share, error = found["share_of_peak"], entry.agreement
            shown.append(
                {
                    "contender": display(entry.contender),
                    "threads": entry.threads or None,
                    "tasks/s": found["tasks_per_s"],
                    "x plain": found["x_plain_loop"],
                    "x best peer": found["x_best_peer"],
                    "GFLOP/s": found["gflops"],
                    "of peak": None if share is None else f"{100 * share:.1f}%",
                    "first s": entry.first_s,
                    **({"peak MiB": entry.peak_mib} if any(one.peak_mib for one in self.entries) else {}),
                    "error": None if error is None else f"{error.error:.1e}",
                    "worst": None if error is None else f"{error.worst_error:.1e}",
                }
            )
        return [{name: _digits(value) for name, value in one.items()} for one in shown]

    def notes(self) -> list[str]:
        """What is to be said below the table."""
        found = [(display(entry.contender), _note(entry)) for entry in self.entries]
        return [f"{name}: {note}" for name, note in found if note]

    def to_json(self) -> dict[str, object]:
        """Everything, for programs."""
        entries = [
            {
                "contender": entry.contender,
                "status": entry.status,
                "reason": entry.reason,
                "threads": entry.threads,
                **self.numbers(entry),
                "first_s": entry.first_s,
                "peak_mib": entry.peak_mib,
                "seconds": list(entry.seconds),
                "agreement": None if entry.agreement is None else asdict(entry.agreement),
                "choice": entry.choice,
            }
            for entry in self.entries
        ]
        before, after = self.peak_gflops
        return {
            "row": self.name,
            "about": self.about,
            "tasks": self.num_tasks,
            "gflop": self.gflop,
            "peak_gflops": {"before": before, "after": after},
            "contenders": entries,
        }


def ratio(slower_s: float | None, faster_s: float | None) -> float | None:
    """How many times as fast; None where either is unknown."""
    return None if slower_s is None or faster_s is None else slower_s / faster_s


def bars(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """For the picture: row -> contender -> speed as a multiple of the plain loop's, which is left out itself."""
    return {
        row.name: {
            entry.contender: value
            for entry in row.entries
            if entry.contender != PLAIN_LOOP and (value := row.numbers(entry)["x_plain_loop"]) is not None
        }
        for row in rows
    }


def _note(entry: Entry) -> str:
    if entry.status != OK:
        return f"{entry.status}: {entry.reason}"
    if entry.choice:
        chosen = [str(entry.choice[name]) for name in ("strategy", "chunk", "memory") if entry.choice.get(name)]
        return f"chose {', '.join(chosen)} in {entry.choice['took_s']:.1f} s"
    return entry.reason


def _digits(value: object) -> object:
    """Three significant digits of a number, large ones without an exponent."""
    if not isinstance(value, float):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
