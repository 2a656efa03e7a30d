"""`distmeta bench engine`, `memory` and `data`: the engine on this machine, beside its peers."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.commands.options import OutOption, RoundsOption, names_in, numbers_in
from benchmarks.engine.common.problems import PROBLEMS, find_problem
from distmeta.cli.output import JsonOption, choose, print_table
from distmeta.core.errors import DistmetaError

_ROWS = "\n\n".join(f"- {name}: {problem.about}, {problem.num_tasks} tasks" for name, problem in PROBLEMS.items())
ENGINE_HELP = f"Verify that all gradients agree, then time them in turn. The rows:\n\n{_ROWS}"

ThreadsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Threads of the peers, lanes of the engine.")]
TasksOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Tasks, instead of the row's own.")]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.")]
LimitOption = Annotated[
    float, typer.Option("--limit-s", min=1, metavar="S", help="Seconds that a process of its own may take.")
]
ContendersOption = Annotated[
    list[str] | None,
    typer.Option("--contenders", metavar="NAME[,NAME]", help="Contenders (default: all); may be repeated."),
]


def engine(
    rows: Annotated[
        list[str] | None, typer.Option(metavar="NAME[,NAME]", help="Rows (default: all); may be repeated.")
    ] = None,
    contenders: ContendersOption = None,
    tasks: TasksOption = None,
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
    """Verify and time (the help of the command is `ENGINE_HELP`)."""
    problems = [find_problem(name, "--rows") for name in names_in(rows, PROBLEMS)]
    from benchmarks.engine.common.contenders import ENGINE_CONTENDERS, check_contenders
    from benchmarks.engine.speed import Settings, bench_problem
    from benchmarks.engine.speed_results import speeds
    from benchmarks.machine import check_device
    from benchmarks.pictures import ratio_bars
    from benchmarks.report import reporting
    from distmeta.engine.precision import library_precision

    check_device(device, "--device")
    names = check_contenders(names_in(contenders, ENGINE_CONTENDERS), "--contenders")
    settings, results = Settings(names, rounds, threads, memory, limit_s), []
    with reporting("bench_engine", out, as_json, device) as report:
        for problem in problems:
            with library_precision("float32"):  # peers too, whose convolutions would be TF32 on a GPU
                results.append(bench_problem(problem.resized(tasks, device), settings))
            results[-1].print()
        disagreeing = [f"{row.name}: {name}" for row in results for name in row.disagreeing]
        report.write(
            settings={"rounds": rounds, "threads": threads, "device": device},
            rows=[row.to_json() for row in results],
            agree=not disagreeing,
        )
        if out is not None:
            ratio_bars(out / "bench_engine.png", speeds(results), report.title)
    if disagreeing:
        raise DistmetaError(f"gradients disagree with the reference: {', '.join(disagreeing)}")


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
    """Sweep the inner steps of second-order MAML on conv4: peak memory and seconds per task.

    Each number has a process of its own. Its peak is counted above the memory in use after imports, data and a small
    first run. A contender that exceeds a limit is not measured with more steps.
    """
    counts = numbers_in(steps, "--steps")
    from benchmarks.engine import memory as sweeps
    from benchmarks.engine.common.contenders import MEMORY_CONTENDERS, check_contenders, display
    from benchmarks.machine import check_device
    from benchmarks.pictures import memory_curves
    from benchmarks.report import print_wide, reporting

    check_device(device, "--device")
    names = check_contenders(names_in(contenders, MEMORY_CONTENDERS), "--contenders")
    sweep = sweeps.Sweep(names, counts, way, shots, queries, tasks, threads, lanes, rounds, limit_s, limit_mib, device)
    with reporting("bench_memory", out, as_json, device) as report:
        points = sweeps.run_sweep(sweep)
        print(f"\nconv4, {way}-way {shots}-shot, {queries} queries: peak MiB, seconds per task, by inner steps")
        print_wide(sweeps.table(points))
        report.write(**sweeps.to_json(points, sweep))
        if out is not None:
            curves = {display(name): curve for name, curve in sweeps.curves(points).items()}
            memory_curves(out / "bench_memory.png", curves, report.title)


def data(
    strategy: Annotated[str, typer.Option(metavar="NAME", help="The engine's strategy for the step.")] = "vmap",
    rounds: RoundsOption = 7,
    threads: ThreadsOption = 2,
    tasks: TasksOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time the building of a shard's episodes beside the engine's step on it.

    Sine waves, drawn characters, and Omniglot where its store has been imported. Workers build the next shard during
    the step: with a share below 100% they never wait.
    """
    from benchmarks.engine.common.contenders import STRATEGIES
    from benchmarks.engine.data import bench_source, sources
    from benchmarks.report import reporting

    choose(strategy, STRATEGIES, "--strategy")
    with reporting("bench_data", out, as_json) as report:
        problems = {name: problem.resized(tasks) for name, problem in sources().items()}
        results = [bench_source(name, problem, strategy, threads, rounds) for name, problem in problems.items()]
        print_table([{**result, "share": f"{result['share']:.1%}"} for result in results])
        report.write(settings={"strategy": strategy, "threads": threads, "rounds": rounds}, sources=results)
