"""`distmeta bench server` and `scale`: what a step costs besides computing, and how far that goes."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer

from benchmarks.commands.output import OutOption, numbers_in, print_machine, print_wide, write_json
from distmeta.cli.output import JsonOption, people_read, print_json
from distmeta.core.errors import UserError

Value = TypeVar("Value", int, float)
StepsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Timed steps (default: fewer for larger updates).")
]


def server(
    workers: Annotated[str, typer.Option(metavar="N[,N]", help="Numbers of workers.")] = "2,4,8,16,32",
    payload: Annotated[str, typer.Option(metavar="MB[,MB]", help="Sizes of an update, in 1e6 bytes.")] = "0.5,20,200",
    steps: StepsOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time outer steps whose updates are ready before they are asked for: all of it is overhead.

    Workers are Ray actors, one shard each, on a cluster of their own; the server is the real one, with plain gradient
    descent. Milliseconds: pull + put (until the first worker begins), reports (until the last is there, adding not
    counted), add, outer (mean and outer step), overhead (the whole step). `copy` is the time to copy the bytes of the
    step's updates (workers x payload) once in memory, by one thread, taken after every step; `x copy` is overhead
    over copy, `of copying` its inverse: the share of that bandwidth which the whole path reaches; `x half` is `x copy`
    over that at half as many workers. Rows for which there is not memory enough are left out, and named.
    """
    counts, sizes = numbers_in(workers, "--workers"), _sizes(payload)
    from benchmarks.cluster import server as rows
    from benchmarks.cluster.curves import overhead_curves
    from benchmarks.machine import busy_share, hardware, hardware_line

    asked, refused = rows.fitting(counts, sizes)
    machine = hardware()
    found: list[rows.Row] = []
    with people_read(as_json):
        print_machine(hardware_line(machine), busy := busy_share())
        for one in refused:
            print(f"{one.workers} workers, {one.payload_mb:g} MB: left out: {one.reason}")
        for row in rows.bench_server(asked, steps):
            found.append(row)
            ratio = f"{row.ratio:.2f} x copying once"
            print(f"{row.workers} workers, {row.payload_mb:g} MB: {row.overhead_s:.4f} s, {ratio}", flush=True)
        print_wide(rows.table(found))
        for line in rows.verdicts(found):
            print(line)
    result = {
        "machine": machine,
        "busy_before": busy,
        "copy": "seconds to copy workers x payload bytes once in memory, by one thread; after each step",
        "outer_optimizer": "SGD without momentum",
        "rows": [row.to_json() for row in found],
        "left_out": [asdict(one) for one in refused],
        "growth": [
            {"workers": count, "payload_mb": size, "x_half": value}
            for (count, size), value in rows.growth(found).items()
        ],
        "goals": rows.goals(found),
    }
    if out is not None:
        write_json(out / "bench_server.json", result)
        overhead_curves(out / "bench_server.png", rows.curves(found), rows.GOAL_RATIO, hardware_line(machine))
    if as_json:
        print_json(result)


def scale(
    max_workers: Annotated[int, typer.Option(min=1, metavar="N", help="End of the curve.")] = 1000,
    payload: Annotated[str, typer.Option(metavar="MB[,MB]", help="Sizes of an update in the curve.")] = "0.5,20",
    shards_per_worker: Annotated[int, typer.Option(min=1, metavar="N", help="Shards of a step, a worker.")] = 2,
    compute_ms: Annotated[float, typer.Option(min=0.1, metavar="MS", help="Mean time that a shard computes.")] = 200.0,
    spread: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Shards differ by so much.")] = 0.1,
    per_machine: Annotated[int, typer.Option(min=1, metavar="N", help="Workers on a machine of the curve.")] = 8,
    link_gbit: Annotated[
        float, typer.Option(min=0.001, metavar="GBIT", help="Link of each machine, 1e9 bit/s.")
    ] = 25.0,
    check: Annotated[str, typer.Option(metavar="N[,N]", help="Workers to check the model on.")] = "2,4,8,16,32",
    check_payload: Annotated[str, typer.Option(metavar="MB[,MB]", help="Updates to check it with.")] = "0.5,20",
    calibrate: Annotated[str, typer.Option(metavar="N,N", help="Workers to calibrate the model on.")] = "2,8",
    calibrate_payload: Annotated[str, typer.Option(metavar="MB,MB", help="Updates to calibrate it with.")] = "0.5,5,40",
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Timed steps.")] = 10,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict synchronous steps of up to a thousand workers, by a model that is calibrated and checked here.

    The model's costs are taken from instant steps of a few workers (`--calibrate`). Then it predicts steps of 2 to 32
    real workers that sleep as if they computed, which it has not seen; both are printed. The curve is the model
    alone: workers on machines with a core each and one to spare, bytes over the link of the driver's machine.
    """
    from benchmarks.cluster import scale as model
    from benchmarks.cluster.curves import scaling_curves
    from benchmarks.machine import busy_share, hardware, hardware_line

    plan = model.Plan(
        calibrated=_two(numbers_in(calibrate, "--calibrate"), "--calibrate"),
        checked=numbers_in(check, "--check"),
        max_workers=max_workers,
        payloads_mb=_sizes(payload),
        shards_per_worker=shards_per_worker,
        compute_ms=compute_ms,
        spread=spread,
        steps=steps,
        per_machine=per_machine,
        link_gbit=link_gbit,
        calibrated_mb=_two(_sizes(calibrate_payload, "--calibrate-payload"), "--calibrate-payload"),
        checked_mb=_sizes(check_payload, "--check-payload"),
    )
    store_bytes, machine = model.check_memory(plan), hardware()
    with people_read(as_json):
        print_machine(hardware_line(machine), busy := busy_share())
        cells, measured = model.measure(plan, store_bytes)
        costs = model.calibrate(cells)
        print(f"\ncosts, from instant steps of {calibrate} workers with updates of {calibrate_payload} MB")
        print_wide(model.cost_table(costs))
        checks = model.check(costs, plan, measured)
        print(f"{shards_per_worker} shards a worker that sleep {compute_ms:g} ms each: the model beside real workers")
        print_wide(model.check_table(checks))
        if (worst := model.worst_error(checks)) is not None:
            goal = f"goal: {100 * model.GOAL_ERROR:.0f}%"
            print(f"largest error at {model.GOAL_WORKERS} workers: {100 * worst:.1f}% ({goal})")
        points = list(model.predict(costs, plan))
        print(f"\npredicted: {per_machine} workers a machine, {link_gbit:g} Gbit/s, {compute_ms:g} ms a shard")
        print_wide(model.curve_table(points))
    result = {"machine": machine, "busy_before": busy, **model.to_json(plan, cells, costs, checks, points)}
    if out is not None:
        write_json(out / "bench_scale.json", result)
        scaling_curves(out / "bench_scale.png", *model.curves(points, checks), hardware_line(machine))
    if as_json:
        print_json(result)


def _sizes(text: str, option: str = "--payload") -> tuple[float, ...]:
    """Positive numbers with commas between them.

    Raises:
        UserError: Anything else.
    """
    try:
        values = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and value >= 0.001 for value in values):
        raise UserError(f"'{text}'", where=option, allowed="sizes in MB from 0.001, with commas between them: 0.5,20")
    return values


def _two(values: tuple[Value, ...], option: str) -> tuple[Value, ...]:
    """The same values, if there are two or more: a line cannot be laid through fewer.

    Raises:
        UserError: There is one only.
    """
    if len(values) < 2:
        raise UserError(f"{values[0]} alone", where=option, allowed="two values or more, with a comma between them")
    return values
