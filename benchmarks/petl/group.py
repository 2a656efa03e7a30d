"""The group row of `distmeta bench petl`: frozen weights divided over two processes (ZeRO-3), beside a whole copy.

Each process computes every other task; the gradients of both arrangements are compared. What is reported of each rank
is the bytes of the network's weights that stay in it, and the seconds of a step.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from statistics import median

import torch

from benchmarks.machine import MIB
from benchmarks.petl.problems import Problem
from benchmarks.petl.speed import started_workload
from benchmarks.timing import timed
from distmeta.config import EngineConfig
from distmeta.core import ranks
from distmeta.core.errors import DistmetaError
from distmeta.core.ranks import Ranks
from distmeta.core.tensors import global_norm

WORLD = 2
_HOST, _TIMEOUT_S = "127.0.0.1", 120.0


@dataclass(frozen=True)
class RankResult:
    """What one rank measured.

    Attributes:
        world: Number of ranks of its worker.
        resident_bytes: Of the network's weights, kept in this process.
        step_s: Median seconds of a step.
        norm: Euclidean norm of the gradient.
    """

    rank: int
    world: int
    resident_bytes: int
    step_s: float
    norm: float


def left_out_groups() -> str | None:
    """Why groups are not measured; None where they can be."""
    if importlib.util.find_spec("deepspeed") is None:
        return "deepspeed is not installed; `pip install 'distmeta[deepspeed]'` installs it"
    return None


def measure_groups(problem: Problem, rounds: int) -> list[RankResult]:
    """A process with a whole copy, then a group of two that divide the frozen weights.

    Raises:
        DistmetaError: A process ends without a result, or the gradients disagree.
    """
    results = [*_run_group(problem, 1, rounds), *_run_group(problem, WORLD, rounds)]
    norms = [result.norm for result in results]
    if max(norms) - min(norms) > 1e-4 * max(norms):
        raise DistmetaError(f"the ranks have other gradients than the whole copy: norms {norms}")
    return results


def _run_group(problem: Problem, world: int, rounds: int) -> list[RankResult]:
    from distmeta.runtime.process_group import open_store

    context = multiprocessing.get_context("spawn")
    store = open_store(_HOST, world, _TIMEOUT_S)  # outlives the ranks
    pipes, processes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe()
        arguments = (problem, rank, world, store.port, rounds, theirs)
        processes.append(context.Process(target=_serve, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    try:
        return [pipe.recv() for pipe in pipes]
    except EOFError:
        raise DistmetaError(f"a rank of {world} ended without a result; its error is above") from None
    finally:
        for process in processes:
            process.join(10.0)
            process.kill()


def _serve(problem: Problem, rank: int, world: int, port: int, rounds: int, pipe: Connection) -> None:
    from distmeta.runtime.process_group import ProcessGroup

    torch.set_num_threads(1)
    device = problem.device
    if world > 1:
        timeouts = {"join_timeout_s": _TIMEOUT_S, "timeout_s": _TIMEOUT_S}
        group = ProcessGroup(rank, world, _HOST, port, device, None, **timeouts)
        ranks.join(Ranks(rank, world, device, group.gather))
    pipe.send(_measured(problem, rounds))
    pipe.close()


def _measured(problem: Problem, rounds: int) -> RankResult:
    from distmeta.engine.ranks import RankLanes
    from distmeta.models.petl.partition import resident_bytes
    from distmeta.models.petl.transformer import Transformer

    workload, own = started_workload(problem), ranks.current
    backbone = workload.learner.backbone
    assert isinstance(backbone, Transformer)
    lanes = RankLanes(own) if own.world > 1 else 1
    engine = workload.engine(EngineConfig(strategy="loop"), lanes)
    norm = global_norm(workload.gradient(engine))
    step_s = median(timed(lambda: workload.gradient(engine)) for _ in range(rounds))
    return RankResult(own.rank, own.world, resident_bytes(backbone.network), step_s, norm)


def table(results: Sequence[RankResult]) -> list[dict[str, object]]:
    whole = results[0]
    return [
        {
            "what": "a whole copy" if each.world == 1 else f"rank {each.rank} of {each.world}",
            "resident MiB": f"{each.resident_bytes / MIB:,.1f}",
            "of a copy": f"{each.resident_bytes / whole.resident_bytes:.2f}",
            "s a step": f"{each.step_s:.3g}",
            "x whole copy": f"{whole.step_s / each.step_s:.2f}",
        }
        for each in results
    ]


def to_json(results: Sequence[RankResult]) -> list[dict[str, object]]:
    return [asdict(result) for result in results]
