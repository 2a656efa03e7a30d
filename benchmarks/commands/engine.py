"""`distmeta bench engine`, `memory` and `data`: the engine on this machine, beside its peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.commands.output import (
    OutOption,
    RoundsOption,
    names_in,
    numbers_in,
    print_machine,
    print_wide,
    write_json,
)
from benchmarks.engine.problems import PROBLEMS, find_problem
from distmeta.cli.output import JsonOption, choose, people_read, print_json, print_table
from distmeta.core.errors import DistmetaError

if TYPE_CHECKING:
    from benchmarks.engine.results import Row

_ROWS = "\n\n".join(f"- {name}: {problem.about}, {problem.num_tasks} tasks" for name, problem in PROBLEMS.items())
ENGINE_HELP = f"Verify that all gradients agree, then time them in turn. The rows:\n\n{_ROWS}"

ThreadsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Threads of the peers, lanes of the engine.")]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.")]
LimitOption = Annotated[
    float, typer.Option("--limit-s", min=1, metavar="S", help="Seconds that a process of its own may take.")
]
ContendersOption = Annotated[
    list[str] | None,
    typer.Option("--contenders", metavar="NAME[,NAME]", help="Who takes part (default: all); may be repeated."),
]


def engine(
    rows: Annotated[
        list[str] | None, typer.Option(metavar="NAME[,NAME]", help="Rows (default: all); may be repeated.")
    ] = None,
    contenders: ContendersOption = None,
    tasks: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tasks, instead of the row's own.")] = None,
    rounds: RoundsOption = 7,
    threads: ThreadsOption = 2,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure peak memory, too, in a process for each contender: slow.")
    ] = False,
    limit_s: LimitOption = 300.0,
    device: DeviceOption = "cpu",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify and time (the command's help is above, with the list of rows)."""
    problems = [find_problem(name, "--rows") for name in names_in(rows, PROBLEMS)]
    from benchmarks.engine.contenders import ENGINE_CONTENDERS, check_contenders
    from benchmarks.engine.pictures import ratio_bars
    from benchmarks.engine.results import bars
    from benchmarks.engine.speed import Settings, bench_problem
    from benchmarks.machine import busy_share, check_device, hardware, hardware_line

    check_device(device, "--device")
    chosen = tuple(check_contenders(names_in(contenders, ENGINE_CONTENDERS), "--contenders"))
    settings = Settings(chosen, rounds, threads, memory, limit_s)
    machine, found = hardware(device), []
    with people_read(as_json):
        print_machine(hardware_line(machine), busy := busy_share())
        for problem in problems:
            row = bench_problem(problem.resized(tasks, device), settings)
            _print_row(row)
            found.append(row)
    result = {
        "machine": machine,
        "settings": {"rounds": rounds, "threads": threads, "device": device},
        "busy_before": busy,
        "rows": [row.to_json() for row in found],
        "agree": not any(row.disagreeing for row in found),
    }
    if out is not None:
        write_json(out / "bench_engine.json", result)
        ratio_bars(out / "bench_engine.png", bars(found), hardware_line(machine))
    if as_json:
        print_json(result)
    wrong = [f"{row.name}: {name}" for row in found for name in row.disagreeing]
    if wrong:
        raise DistmetaError(f"gradients disagree with the reference: {', '.join(wrong)}")


def memory(
    steps: Annotated[str, typer.Option(metavar="K[,K]", help="Numbers of inner steps.")] = "5,10,20,50,100",
    way: Annotated[int, typer.Option(min=2, metavar="N", help="Classes of a task.")] = 20,
    shots: Annotated[int, typer.Option(min=1, metavar="N", help="Support examples of a class.")] = 5,
    queries: Annotated[int, typer.Option(min=1, metavar="N", help="Query examples of a class.")] = 5,
    contenders: ContendersOption = None,
    tasks: Annotated[int, typer.Option(min=1, metavar="N", help="Tasks of a run.")] = 1,
    lanes: Annotated[int, typer.Option(min=1, metavar="N", help="Tasks in flight in the engine.")] = 1,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Intra-op threads of the peers.")] = 2,
    rounds: RoundsOption = 3,
    limit_s: LimitOption = 300.0,
    limit_mib: Annotated[
        float, typer.Option("--limit-mib", min=1, metavar="MIB", help="Memory that one process may have.")
    ] = 8192.0,
    device: DeviceOption = "cpu",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sweep the inner steps of second-order MAML on conv4: peak memory and seconds a task.

    Each cell has a process of its own. Its peak is counted above what is held after imports, data and a first small
    run. Cells over a limit are shown as such, and larger ones skipped.
    """
    counts = numbers_in(steps, "--steps")
    from benchmarks.engine import memory as sweeps
    from benchmarks.engine.contenders import MEMORY_CONTENDERS, check_contenders
    from benchmarks.engine.pictures import memory_curves
    from benchmarks.machine import busy_share, check_device, hardware, hardware_line

    check_device(device, "--device")
    chosen = tuple(check_contenders(names_in(contenders, MEMORY_CONTENDERS), "--contenders"))
    sweep = sweeps.Sweep(chosen, counts, way, shots, queries, tasks, threads, lanes, rounds, limit_s, limit_mib, device)
    machine = hardware(device)
    with people_read(as_json):
        print_machine(hardware_line(machine), busy := busy_share())
        points = sweeps.run_sweep(sweep)
        print(f"\nconv4, {way}-way {shots}-shot, {queries} queries: peak MiB, seconds a task, by inner steps")
        print_wide(sweeps.table(points))
    result = {"machine": machine, "busy_before": busy, **sweeps.to_json(points, sweep)}
    if out is not None:
        write_json(out / "bench_memory.json", result)
        memory_curves(out / "bench_memory.png", sweeps.curves(points), hardware_line(machine))
    if as_json:
        print_json(result)


def data(
    strategy: Annotated[str, typer.Option(metavar="NAME", help="The engine's strategy for the step.")] = "vmap",
    rounds: RoundsOption = 7,
    threads: ThreadsOption = 2,
    tasks: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tasks of a shard.")] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time the building of a shard's episodes beside the engine's step on it.

    Sine waves, drawn characters, and Omniglot where its store has been imported. Workers build the next shard during
    the step: below 100% they never wait.
    """
    from benchmarks.engine.contenders import STRATEGIES
    from benchmarks.engine.data import bench_source, sources
    from benchmarks.machine import busy_share, hardware, hardware_line

    choose(strategy, STRATEGIES, "--strategy")
    machine, found = hardware(), []
    with people_read(as_json):
        print_machine(hardware_line(machine), busy := busy_share())
        for name, problem in sources().items():
            found.append(bench_source(name, problem.resized(tasks), strategy, threads, rounds).to_json())
        print_table([{**row, "share": f"{100 * float(str(row['share'])):.1f}%"} for row in found])
    settings = {"strategy": strategy, "threads": threads, "rounds": rounds}
    result = {"machine": machine, "busy_before": busy, "settings": settings, "sources": found}
    if out is not None:
        write_json(out / "bench_data.json", result)
    if as_json:
        print_json(result)


def _print_row(row: Row) -> None:
    """A row's table, and what is to be said of it."""
    before, after = row.peak_gflops
    print(f"\n{row.name}: {row.about}, {row.num_tasks} tasks")
    print(f"{row.gflop:.3g} GFLOP in matrix products and convolutions; peak {before:.0f}, then {after:.0f} GFLOP/s")
    print_wide(row.table())
    for note in row.notes():
        print(f"  {note}")
