"""The inputs of the model: costs of the parts of a step, and machines. Times are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Costs of the parts of a step, in processor seconds unless stated otherwise; `..._byte_s` is per byte.

    Attributes:
        begin_s, begin_byte_s: Driver, at the start of a step: pull, encode, put.
        assign_s: Driver, per assignment of a shard.
        report_s, report_byte_s: Driver, per report: fetch, decode, add.
        outer_s, outer_byte_s: Driver, at the end: the outer step.
        shard_s, shard_byte_s: Worker, per shard besides its computation: receive, check, write.
        add_byte_s: Worker, to add an update to others of its group.
        ray_s, ray_byte_s: Ray's own processes and threads on the driver's machine, per report.
        latency_s: Of a message, either way; uses no processor.
    """

    begin_s: float = 0.0
    begin_byte_s: float = 0.0
    assign_s: float = 0.0
    report_s: float = 0.0
    report_byte_s: float = 0.0
    outer_s: float = 0.0
    outer_byte_s: float = 0.0
    shard_s: float = 0.0
    shard_byte_s: float = 0.0
    add_byte_s: float = 0.0
    ray_s: float = 0.0
    ray_byte_s: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True)
class Machines:
    """The machines of a run. The driver is on the first one, beside its workers.

    Attributes:
        workers: Number of workers on all machines.
        per_machine: Workers of a machine; the last one may have fewer.
        cores: Of each machine.
        link_bytes_s: Bytes per second that a machine can receive, and the driver's can send; None: no limit.
        computing_takes_core: Computing needs a core; else it is a sleep, as on an accelerator.
        leaders: Actors between driver and workers, each with as many workers.
    """

    workers: int
    per_machine: int
    cores: int
    link_bytes_s: float | None = None
    computing_takes_core: bool = False
    leaders: int = 0

    @property
    def count(self) -> int:
        return -(-self.workers // self.per_machine)
