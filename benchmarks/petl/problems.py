"""The problems of `distmeta bench petl`: MAML on the LoRA and the head of a frozen text encoder, on real texts.

A problem is named by ways `w`, shots `s`, tasks `t`, order `o` and inner steps `k`: `5w1s_t16_o2_k1`. Queries are five
a class. The network is MiniLM-L6 (22 million weights), the texts are BANKING77's. This module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from distmeta.config import RunConfig
from distmeta.config.models import TransformerConfig
from distmeta.config.petl import LoraConfig
from distmeta.config.tasks import TextTasks
from distmeta.core.errors import UserError, nearest
from distmeta.methods import fomaml, maml

INNER_LR = 0.1


@dataclass(frozen=True)
class Problem:
    """A row of the benchmark.

    Attributes:
        name: Name of the row.
        way, shots, queries: Size of a task; queries are counted for each class.
        tasks: Tasks T of an outer step.
        order: 2 is the exact meta-gradient, 1 treats inner gradients as constants.
        steps: Inner SGD steps.
        store, split_set: Store of texts, and the classes of it.
        tokenizer: Of the texts.
        network: Fields of `TransformerConfig`.
        device: Where all contenders compute.
    """

    name: str
    way: int
    shots: int
    queries: int
    tasks: int
    order: int
    steps: int
    store: str = "banking77"
    split_set: str | None = "01"
    tokenizer: str = "minilm"
    network: tuple[tuple[str, Any], ...] = (("pretrained", "minilm"),)
    device: str = "cpu"

    @property
    def about(self) -> str:
        size = f"{self.way}-way {self.shots}-shot, {self.queries} queries a class"
        return f"{size}, {self.tasks} tasks, order {self.order}, {self.steps} step{'s' * (self.steps > 1)}"

    @property
    def config(self) -> RunConfig:
        """The configuration of a run of this problem."""
        method = (maml if self.order == 2 else fomaml)(lr=INNER_LR, steps=self.steps)
        size = {"way": self.way, "shots": self.shots, "queries": self.queries}
        tasks = TextTasks(store=self.store, split_set=self.split_set, tokenizer=self.tokenizer, **size)
        model = TransformerConfig(petl=(LoraConfig(),), **dict(self.network))
        values = {"tasks": tasks, "model": model, "algorithm": method, "train": {"tasks_per_step": self.tasks}}
        return RunConfig.model_validate({"name": "petl", "runtime": {"device": self.device}, **values})

    def resized(self, tasks: int | None = None, device: str | None = None) -> Problem:
        """The problem with T tasks (None keeps their number), on a device."""
        return replace(self, tasks=tasks or self.tasks, device=device or self.device)


def problem(way: int, shots: int, tasks: int, order: int, steps: int = 1, queries: int = 5) -> Problem:
    """A problem by its sizes."""
    return Problem(f"{way}w{shots}s_t{tasks}_o{order}_k{steps}", way, shots, queries, tasks, order, steps)


_ROWS = (
    *(problem(5, 1, tasks, order) for order in (2, 1) for tasks in (1, 4, 16, 64)),
    *(problem(5, 5, tasks, order) for order in (2, 1) for tasks in (1, 4, 16, 64)),
    problem(5, 1, 16, 2, steps=5),
)
PROBLEMS: dict[str, Problem] = {row.name: row for row in _ROWS}
DEFAULT_ROWS = tuple(
    name for name, row in PROBLEMS.items() if row.tasks < 64 and (row.shots == 1 or (row.order == 2 and row.tasks < 16))
)
"""The rows that are measured when none is named: about ten minutes on two cores."""
LARGE_ROW = "5w1s_t16_o2_k1"
"""The row whose tasks a large network gets."""
GROUP_ROW = "5w1s_t4_o2_k1"
"""The row on which a group of processes is measured."""


def find_problem(name: str, where: str) -> Problem:
    """The problem of this name.

    Raises:
        UserError: There is none; `where` is the option that names it.
    """
    if name not in PROBLEMS:
        raise UserError(f"unknown row '{name}'", where=where, allowed=nearest(name, PROBLEMS))
    return PROBLEMS[name]
