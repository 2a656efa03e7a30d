"""The results of `distmeta bench petl`: each contender's numbers on each row, and what is derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.engine.common.agreement import Agreement
from benchmarks.engine.common.contenders import Status
from benchmarks.petl.peers import PEERS
from benchmarks.report import Goal, print_wide

GOAL_TASKS, GOAL_RATIO, LEAST_RATIO = 16, 1.5, 0.95


@dataclass(frozen=True)
class Entry:
    """One contender on one row.

    Attributes:
        reason: Why there are no numbers.
        threads: Intra-op threads of a peer (the better number of them), threads of the engine.
        agreement: Errors of its gradient.
        seconds: Seconds of one run, in each round.
        cpu_s: Processor seconds of one run, of all threads, in each round.
        places: Tokens that it computes in one pass over all texts, padding included.
    """

    contender: str
    status: Status
    reason: str = ""
    threads: int = 0
    agreement: Agreement | None = None
    seconds: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()
    places: int = 0

    @property
    def run_s(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    @property
    def is_peer(self) -> bool:
        return self.contender in PEERS


@dataclass(frozen=True)
class Row:
    """All contenders on one problem of T tasks.

    Attributes:
        tokens: Tokens of all texts of all tasks, without padding.
    """

    name: str
    about: str
    order: int
    num_tasks: int
    way: int
    shots: int
    steps: int
    tokens: int
    entries: tuple[Entry, ...]

    @property
    def disagreeing(self) -> list[str]:
        """The contenders that disagree with the reference."""
        return [entry.contender for entry in self.entries if entry.status == Status.DISAGREES]

    def numbers(self, entry: Entry) -> dict[str, float | None]:
        """Numbers derived from a contender's seconds; None where it was not timed.

        `x_peft_loop` is the median over rounds of the faster peer's seconds by its own, of the same round.
        """
        run_s = entry.run_s
        return {
            "run_s": run_s,
            "tasks_per_s": None if run_s is None else self.num_tasks / run_s,
            "tokens_per_s": None if run_s is None else self.tokens / run_s,
            "padding": 1 - self.tokens / entry.places if entry.places else None,
            "x_peft_loop": self._ratio(entry),
            "x_peft_loop_cpu": self._cpu_ratio(entry),
        }

    def _best_peer(self) -> Entry | None:
        peers = [entry for entry in self.entries if entry.is_peer and entry.seconds]
        return min(peers, key=lambda entry: entry.run_s or 0.0, default=None)

    def _ratio(self, entry: Entry) -> float | None:
        best = self._best_peer()
        if best is None or not entry.seconds:
            return None
        return median(theirs / own for theirs, own in zip(best.seconds, entry.seconds, strict=True))

    def _cpu_ratio(self, entry: Entry) -> float | None:
        peers = [min(each.cpu_s) for each in self.entries if each.is_peer and each.cpu_s]
        return min(peers) / min(entry.cpu_s) if peers and entry.cpu_s else None

    @property
    def best(self) -> float | None:
        """The highest ratio to the peers among the engine's contenders."""
        ratios = [self._ratio(entry) for entry in self.entries if not entry.is_peer]
        return max((ratio for ratio in ratios if ratio is not None), default=None)

    def table(self) -> list[dict[str, object]]:
        return [self._line(entry) for entry in self.entries]

    def _line(self, entry: Entry) -> dict[str, object]:
        numbers = self.numbers(entry)
        padding = numbers.pop("padding")
        names = {
            "run_s": "s",
            "tasks_per_s": "tasks/s",
            "tokens_per_s": "tokens/s",
            "x_peft_loop": "x peft loop",
            "x_peft_loop_cpu": "x, CPU time",
        }
        shown = {names[name]: None if value is None else f"{value:,.3g}" for name, value in numbers.items()}
        if numbers["tokens_per_s"] is not None:
            shown["tokens/s"] = f"{numbers['tokens_per_s']:,.0f}"
        return {
            "contender": entry.contender if entry.is_peer else f"distmeta: {entry.contender}",
            "threads": entry.threads or None,
            **shown,
            "padding": None if padding is None else f"{padding:.0%}",
            "error": None if entry.agreement is None else f"{entry.agreement.error:.1e}",
        }

    def print(self) -> None:
        print(f"\n{self.name}: {self.about}; {self.tokens:,} tokens")
        print_wide(self.table())
        for entry in self.entries:
            if entry.status != Status.OK:
                print(f"  {entry.contender}: {entry.status}: {entry.reason}")

    def to_json(self) -> dict[str, object]:
        own = {"row": self.name, "about": self.about, "tasks": self.num_tasks, "order": self.order}
        contenders = [{**asdict(entry), **self.numbers(entry)} for entry in self.entries]
        return {**own, "tokens": self.tokens, "contenders": contenders}


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Goals of the rows: no row slower than the peer, and a margin on 16 tasks of one shot."""
    measured = {row.name: (row, row.best) for row in rows if row.best is not None}
    found = [
        Goal(f"{name}: x peft loop", best, GOAL_RATIO, at_least=True)
        for name, (row, best) in measured.items()
        if best is not None and (row.num_tasks, row.way, row.shots, row.steps) == (GOAL_TASKS, 5, 1, 1)
    ]
    slowest = min(measured, key=lambda name: measured[name][1] or 0.0, default=None)
    if slowest is not None and (value := measured[slowest][1]) is not None:
        found.append(Goal(f"slowest row, {slowest}: x peft loop", value, LEAST_RATIO, at_least=True))
    return found


def speeds(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """For the picture: row -> contender -> speed as a multiple of the faster peer's, which is left out itself."""
    return {
        row.name: {
            f"distmeta: {entry.contender}": ratio
            for entry in row.entries
            if not entry.is_peer and (ratio := row.numbers(entry)["x_peft_loop"]) is not None
        }
        for row in rows
    }
