"""The results of `distmeta bench engine`: each contender's numbers on each row, and the ratios derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.engine.common.agreement import Agreement, ByTask
from benchmarks.engine.common.contenders import Status, display
from benchmarks.engine.common.peers import PEERS, PLAIN_LOOP
from benchmarks.peaks import best
from benchmarks.report import print_wide


@dataclass(frozen=True)
class Entry:
    """One contender on one row.

    Attributes:
        reason: Why there are no numbers.
        threads: Intra-op threads of a peer (the better number of them), lanes of the engine.
        agreement: Errors of its gradient, summed over the tasks.
        by_task: Errors of the gradients of single tasks.
        first_s: Seconds of the first call, compiling included.
        seconds: Seconds of one run, in each round.
        peak_mib: Peak memory above the base level, where it was measured.
        choice: The choice of `auto` or `measured`.
    """

    contender: str
    status: Status
    reason: str = ""
    threads: int = 0
    agreement: Agreement | None = None
    by_task: ByTask | None = None
    first_s: float | None = None
    seconds: tuple[float, ...] = ()
    peak_mib: float | None = None
    choice: dict[str, Any] = field(default_factory=dict)

    @property
    def run_s(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def note(self) -> str:
        """The line below the table; may be empty."""
        if self.status != Status.OK:
            return f"{self.status}: {self.reason}"
        if self.choice:
            parts = [str(self.choice[name]) for name in ("strategy", "chunk", "memory") if self.choice.get(name)]
            return f"chose {', '.join(parts)} in {self.choice['took_s']:.1f} s"
        return self.reason


@dataclass(frozen=True)
class Row:
    """All contenders on one problem of T tasks.

    Attributes:
        gflop: Work of one run in 1e9 operations of matrix products and convolutions.
        peaks: GFLOP/s of kernels before and after the row (`benchmarks.peaks`); the largest is the peak.
    """

    name: str
    about: str
    num_tasks: int
    gflop: float
    peaks: tuple[Mapping[str, float], Mapping[str, float]]
    entries: tuple[Entry, ...]

    @property
    def disagreeing(self) -> list[str]:
        """The contenders that disagree with the reference."""
        return [entry.contender for entry in self.entries if entry.status == Status.DISAGREES]

    def numbers(self, entry: Entry) -> dict[str, float | None]:
        """Numbers derived from a contender's seconds; None where it was not timed.

        The best peer is the fastest one, the plain loop among them. Operations per second are those of matrix products
        and convolutions.
        """
        peers_s = {other.contender: other.run_s for other in self.entries if other.contender in PEERS and other.run_s}
        run_s = entry.run_s
        gflops = None if run_s is None else self.gflop / run_s
        return {
            "run_s": run_s,
            "tasks_per_s": None if run_s is None else self.num_tasks / run_s,
            "x_plain_loop": _ratio(peers_s.get(PLAIN_LOOP), run_s),
            "x_best_peer": _ratio(min((s for s in peers_s.values() if s is not None), default=None), run_s),
            "gflops": gflops,
            "share_of_peak": None if gflops is None else gflops / max(best(each)[1] for each in self.peaks),
        }

    def table(self) -> list[dict[str, object]]:
        with_memory = any(entry.peak_mib for entry in self.entries)
        lines: list[dict[str, object]] = []
        for entry in self.entries:
            numbers = self.numbers(entry)
            share, tasks = numbers["share_of_peak"], entry.by_task
            line = {
                "contender": display(entry.contender),
                "threads": entry.threads or None,
                "tasks/s": numbers["tasks_per_s"],
                "x plain": numbers["x_plain_loop"],
                "x best peer": numbers["x_best_peer"],
                "GFLOP/s": numbers["gflops"],
                "of peak": None if share is None else f"{100 * share:.1f}%",
                "first s": entry.first_s,
                **({"peak MiB": entry.peak_mib} if with_memory else {}),
                "median error": None if tasks is None else f"{tasks.median:.1e}",
                "over 1e-3": None if tasks is None else f"{tasks.over} of {tasks.tasks}",
            }
            lines.append({name: _three_digits(value) for name, value in line.items()})
        return lines

    def print(self) -> None:
        before, after = (best(each) for each in self.peaks)
        print(f"\n{self.name}: {self.about}, {self.num_tasks} tasks")
        print(
            f"{self.gflop:.3g} GFLOP in matrix products and convolutions; peak {before[1]:.0f} ({before[0]}), "
            f"then {after[1]:.0f} GFLOP/s ({after[0]})"
        )
        print_wide(self.table())
        for entry in self.entries:
            if entry.note:
                print(f"  {display(entry.contender)}: {entry.note}")

    def to_json(self) -> dict[str, object]:
        before, after = self.peaks
        return {
            "row": self.name,
            "about": self.about,
            "tasks": self.num_tasks,
            "gflop": self.gflop,
            "peak_gflops": {"before": dict(before), "after": dict(after)},
            "contenders": [{**asdict(entry), **self.numbers(entry)} for entry in self.entries],
        }


def speeds(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """For the picture: row -> contender -> speed as a multiple of the plain loop's, which is left out itself."""
    return {
        row.name: {
            display(entry.contender): speed
            for entry in row.entries
            if entry.contender != PLAIN_LOOP and (speed := row.numbers(entry)["x_plain_loop"]) is not None
        }
        for row in rows
    }


def _ratio(slower_s: float | None, faster_s: float | None) -> float | None:
    return None if slower_s is None or faster_s is None else slower_s / faster_s


def _three_digits(value: object) -> object:
    """Three significant digits of a number, without an exponent for large ones."""
    if not isinstance(value, float):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
