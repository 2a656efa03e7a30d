"""`distmeta bench petl`: many adapters on one frozen network, beside a loop over modules of `peft`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from benchmarks.commands.options import OutOption, names_in, numbers_in
from benchmarks.petl.problems import DEFAULT_ROWS, GROUP_ROW, LARGE_ROW, PROBLEMS, find_problem
from distmeta.cli.output import JsonOption
from distmeta.core.errors import DistmetaError

_ROWS = "\n\n".join(
    f"- {name}{'' if name in DEFAULT_ROWS else ' (not by default)'}: {problem.about}"
    for name, problem in PROBLEMS.items()
)
PETL_HELP = f"""Verify that all meta-gradients agree, then time them in turn; then measure memory.

MAML on the LoRA and the head of MiniLM-L6, on texts of BANKING77 (imported from $DISTMETA_DATA). Contenders:
peft_loop (a loop over tasks with a module of the package peft, attention `eager`), peft_loop/sdpa (first order only),
loop, vmap, vmap/N (N tasks in a chunk), auto, and shared (one task at a time with all threads). The rows:\n\n{_ROWS}"""


def petl(
    rows: Annotated[
        list[str] | None, typer.Option(metavar="NAME[,NAME]", help="Rows, or `all`; may be repeated.")
    ] = None,
    contenders: Annotated[
        list[str] | None, typer.Option(metavar="NAME[,NAME]", help="Contenders; may be repeated.")
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tasks, instead of the row's own.")] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Timed rounds at most.")] = 5,
    row_s: Annotated[
        float, typer.Option("--row-s", min=1, metavar="S", help="Seconds of a row's rounds; at least two rounds.")
    ] = 45.0,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads of the peer and of the engine.")] = 2,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory, too.")] = True,
    group: Annotated[
        bool, typer.Option("--group/--no-group", help="Measure a group that divides the frozen weights, too.")
    ] = True,
    large: Annotated[
        bool, typer.Option("--large/--no-large", help="On an accelerator: a network of a billion weights, too.")
    ] = True,
    memory_tasks: Annotated[str, typer.Option(metavar="N[,N]", help="Tasks of the memory rows.")] = "1,4,16,64",
    memory_steps: Annotated[str, typer.Option(metavar="K[,K]", help="Inner Adam steps of the memory rows.")] = "5,100",
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=1, metavar="S", help="Seconds that a process of its own may take.")
    ] = 300.0,
    limit_mib: Annotated[
        float, typer.Option("--limit-mib", min=1, metavar="MIB", help="Memory that one process may have.")
    ] = 8192.0,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.")] = "cpu",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify, time and measure (the help of the command is `PETL_HELP`)."""
    names = names_in(rows, DEFAULT_ROWS)
    problems = [find_problem(name, "--rows") for name in (PROBLEMS if names == ["all"] else names)]
    task_counts, step_counts = numbers_in(memory_tasks, "--memory-tasks"), numbers_in(memory_steps, "--memory-steps")
    from benchmarks.machine import check_device
    from benchmarks.petl import gpu
    from benchmarks.petl import group as groups
    from benchmarks.petl import memory as peaks
    from benchmarks.petl.results import goals, speeds
    from benchmarks.petl.speed import CONTENDERS, Settings, bench_problem, check_contenders
    from benchmarks.pictures import ratio_bars
    from benchmarks.report import print_wide, reporting
    from distmeta.engine.precision import library_precision

    check_device(device, "--device")
    settings = Settings(check_contenders(names_in(contenders, CONTENDERS), "--contenders"), rounds, threads, row_s)
    results, points, ranks = [], [], []
    with reporting("bench_petl", out, as_json, device) as report:
        for problem in problems:
            with library_precision("float32"):
                results.append(bench_problem(problem.resized(tasks, device), settings))
            results[-1].print()
        if memory:
            swept = (problems[0] if rows else find_problem(DEFAULT_ROWS[0], "--rows")).resized(None, device)
            points = peaks.run_points(swept, task_counts, step_counts, limit_s, limit_mib)
            print("\npeak memory above what the loaded network needs, one process a line")
            print_wide(peaks.table(points))
        reason = groups.left_out_groups() if group else "--no-group"
        if reason is None:
            print("\nfrozen weights divided over two processes, beside a whole copy in one")
            ranks = groups.measure_groups(find_problem(GROUP_ROW, "--rows").resized(tasks), rounds)
            print_wide(groups.table(ranks))
        else:
            print(f"\nfrozen weights divided over a group: left out: {reason}")
        measured_large = None
        if device == "cpu":
            print("share of bf16 peak on a billion weights, 1,000 adapters: left out: --device cuda")
        elif large:
            measured_large = gpu.measure_large(find_problem(LARGE_ROW, "--rows").resized(tasks, device))
            print_wide(gpu.table(measured_large))
        reached = [*goals(results), *peaks.goals(points)]
        for goal in reached:
            print(goal)
        disagreeing = [f"{row.name}: {name}" for row in results for name in row.disagreeing]
        report.write(
            settings={"rounds": rounds, "row_s": row_s, "threads": threads, "device": device},
            rows=[row.to_json() for row in results],
            memory=peaks.to_json(points) if memory else None,
            group=groups.to_json(ranks),
            large=None if measured_large is None else asdict(measured_large),
            left_out={"group": reason} if reason else {},
            goals=[{"what": goal.what, "value": goal.value, "reached": goal.reached} for goal in reached],
            agree=not disagreeing,
        )
        if out is not None:
            ratio_bars(out / "bench_petl.png", speeds(results), report.title, "the loop over peft's modules")
    if disagreeing:
        raise DistmetaError(f"gradients disagree with the reference: {', '.join(disagreeing)}")
