"""`distmeta bench server` and `scale`: the overhead of an outer step, and step times of many workers."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.commands.options import OutOption, numbers_in, sizes_in
from distmeta.cli.output import JsonOption


def server(
    workers: Annotated[str, typer.Option(metavar="N[,N]", help="Numbers of workers.")] = "2,4,8,16,32",
    payload: Annotated[str, typer.Option(metavar="MB[,MB]", help="Sizes of an update, in 1e6 bytes.")] = "0.5,20,200",
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Timed steps (default: fewer for larger updates).")
    ] = None,
    leaders: Annotated[int, typer.Option(min=0, metavar="N", help="Under so many leaders (`runtime.leaders`).")] = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time outer steps without computation: workers have ready-made updates, so all time is overhead.

    Workers are Ray actors, one shard each, on a cluster of their own; the server is the real one, with plain gradient
    descent. Milliseconds: pull + put (until the first worker begins), reports (until the last has arrived, without
    adding), add, outer (mean and outer step), overhead (the whole step). `copy` is the time to copy the bytes of the
    step's updates (workers x payload) once in memory, by one thread, measured after every step; `x copy` is overhead
    over copy, `of copying` its inverse: the share of that bandwidth that the whole path reaches; `x half` is `x copy`
    over that at half as many workers. Rows for which there is not enough memory are left out, and named.
    """
    counts, sizes = numbers_in(workers, "--workers"), sizes_in(payload, "--payload")
    from benchmarks.cluster import server as rows
    from benchmarks.pictures import overhead_curves
    from benchmarks.report import print_wide, reporting

    fit, left_out = rows.fitting(counts, sizes)
    results: list[rows.Row] = []
    with reporting("bench_server", out, as_json) as report:
        for (count, size), reason in left_out.items():
            print(f"{count} workers, {size:g} MB: left out: {reason}")
        for row in rows.bench_server(fit, steps, leaders):
            results.append(row)
            text = f"{row.medians.total_s:.4f} s, {row.ratio:.2f} x copying once"
            print(f"{row.workers} workers, {row.payload_mb:g} MB: {text}", flush=True)
        print_wide(rows.table(results))
        for goal in rows.goals(results).values():
            print(goal)
        report.write(leaders=leaders, **rows.to_json(results, left_out))
        if out is not None:
            overhead_curves(out / "bench_server.png", rows.curves(results), rows.GOAL_RATIO, report.title)


def scale(
    max_workers: Annotated[int, typer.Option(min=1, metavar="N", help="End of the curve.")] = 1000,
    payload: Annotated[str, typer.Option(metavar="MB[,MB]", help="Sizes of an update in the curve.")] = "0.5,20",
    shards_per_worker: Annotated[int, typer.Option(min=1, metavar="N", help="Shards of a step, per worker.")] = 2,
    compute_ms: Annotated[float, typer.Option(min=0.1, metavar="MS", help="Mean time that a shard computes.")] = 200.0,
    spread: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Spread of that time.")] = 0.1,
    per_machine: Annotated[int, typer.Option(min=1, metavar="N", help="Workers on a machine of the curve.")] = 8,
    link_gbit: Annotated[
        float, typer.Option(min=0.001, metavar="GBIT", help="Link of each machine, 1e9 bit/s.")
    ] = 25.0,
    check: Annotated[str, typer.Option(metavar="N[,N]", help="Workers to check the model on.")] = "2,4,8,16,32",
    check_payload: Annotated[str, typer.Option(metavar="MB[,MB]", help="Updates to check it with.")] = "0.5,20",
    leaders: Annotated[
        str, typer.Option(metavar="N[,N]", help="Check it under so many leaders as well (`runtime.leaders`).")
    ] = "1,2",
    calibrate: Annotated[str, typer.Option(metavar="N,N", help="Workers to calibrate the model on.")] = "2,8",
    calibrate_payload: Annotated[str, typer.Option(metavar="MB,MB", help="Updates to calibrate it with.")] = "0.5,5,40",
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Timed steps.")] = 10,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict synchronous steps of up to a thousand workers, by a model that is calibrated and checked here.

    The model's costs are fitted to instant steps of a few workers (`--calibrate`). It then predicts steps of 2 to 32
    real workers that sleep as if they computed, which were not used for the fit, without leaders and under some; both
    are printed. The curve is the model alone: workers on machines with a core each and one to spare, bytes over the
    link of each machine, and leaders from where a run has them by itself.
    """
    from benchmarks.cluster import scale as model
    from benchmarks.cluster.model.fit import fit_costs
    from benchmarks.pictures import scaling_curves
    from benchmarks.report import print_wide, reporting
    from distmeta.tracking.environment import num_cores

    plan = model.Plan(
        calibrated=numbers_in(calibrate, "--calibrate", min_count=2),
        calibrated_mb=sizes_in(calibrate_payload, "--calibrate-payload", min_count=2),
        checked=numbers_in(check, "--check"),
        checked_mb=sizes_in(check_payload, "--check-payload"),
        max_workers=max_workers,
        payloads_mb=sizes_in(payload, "--payload"),
        shards_per_worker=shards_per_worker,
        compute_ms=compute_ms,
        spread=spread,
        steps=steps,
        per_machine=per_machine,
        link_gbit=link_gbit,
        leaders=numbers_in(leaders, "--leaders"),
    )
    object_store_bytes = model.required_store_bytes(plan)
    with reporting("bench_scale", out, as_json) as report:
        samples, measured_s = model.measure(plan, object_store_bytes)
        costs = fit_costs(samples, num_cores())
        print(f"\ncosts, from instant steps of {calibrate} workers with updates of {calibrate_payload} MB")
        print_wide(model.cost_table(costs))
        checks = model.predict_measured(costs, plan, measured_s)
        print(f"{shards_per_worker} shards a worker that sleep {compute_ms:g} ms each: the model beside real workers")
        print_wide(model.check_table(checks))
        if (goal := model.goal_of(checks)) is not None:
            print(goal)
        points = list(model.predict(costs, plan))
        print(f"\npredicted: {per_machine} workers a machine, {link_gbit:g} Gbit/s, {compute_ms:g} ms a shard")
        print_wide(model.curve_table(points))
        report.write(**model.to_json(plan, samples, costs, checks, points))
        if out is not None:
            scaling_curves(out / "bench_scale.png", *model.curves(points, checks), report.title)
