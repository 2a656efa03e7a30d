"""What the model of a run is given: what things cost, and the machines. Times are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """What the parts of a step cost, in processor seconds where nothing else is said. `..._byte_s` is for each byte.

    Attributes:
        begin_s, begin_byte_s: Driver, at the begin of a step: pull, encode, put.
        order_s: Driver, for each order.
        answer_s, answer_byte_s: Driver, for each answer: fetch, decode, add.
        outer_s, outer_byte_s: Driver, at the end: the outer step.
        task_s, task_byte_s: Worker, for each shard besides its computation: receive, check, write.
        add_byte_s: Worker, to add an update to others of its group.
        behind_s, behind_byte_s: Ray's own processes and threads on the driver's machine, for each answer.
        latency_s: Of a message, either way; needs no processor.
    """

    begin_s: float = 0.0
    begin_byte_s: float = 0.0
    order_s: float = 0.0
    answer_s: float = 0.0
    answer_byte_s: float = 0.0
    outer_s: float = 0.0
    outer_byte_s: float = 0.0
    task_s: float = 0.0
    task_byte_s: float = 0.0
    add_byte_s: float = 0.0
    behind_s: float = 0.0
    behind_byte_s: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True)
class Site:
    """Machines. The driver is on the first one, with that one's workers.

    Attributes:
        workers: How many.
        per_machine: Workers on a machine; the last one may have fewer.
        cores: Of each machine.
        link_bytes_s: What a machine can receive, and the driver's can send, in a second; None: no limit.
        computing_takes_core: Computing needs a core; else it is a sleep, as on an accelerator.
    """

    workers: int
    per_machine: int
    cores: int
    link_bytes_s: float | None = None
    computing_takes_core: bool = False
