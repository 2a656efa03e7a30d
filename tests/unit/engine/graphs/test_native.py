"""Native code of graphs: correct, deterministic, thread-safe, compiled once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from distmeta.core.errors import UserError
from distmeta.engine.graphs import native as module
from distmeta.engine.graphs.cache import cache_folder
from distmeta.engine.graphs.native import CompileError, NativeGraph
from distmeta.engine.graphs.tracing import trace

# One process compiles the graph of the module, when tests are spread over several.
pytestmark = pytest.mark.xdist_group("native")
ROOT = Path(__file__).parents[4]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def function(x: Tensor, weight: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Products, sums, an index, and results that alias arguments or one another."""
    y = torch.tanh(x @ weight)
    spread = y.sum(0, keepdim=True).expand(5, 16)
    return {
        "y": y,
        "same": y,
        "argument": weight,
        "transposed": weight.T,
        "rows": y[rows],
        "sum": y.sum(),
        "spread": spread,
    }


ARGUMENTS = draw(33, 17), draw(17, 16, seed=1), torch.tensor([4, 0, 4])


def graph_of(function: Callable[..., Any] = function, *arguments: Tensor) -> GraphModule:
    return trace(function, *(arguments or ARGUMENTS))[0]


@pytest.fixture(scope="session")
def graph(compiled_home: Path) -> NativeGraph:
    """`function`, compiled once; two calls at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTMETA_HOME", str(compiled_home))
        return NativeGraph(graph_of(), 2)


def test_results_are_those_of_the_function(graph: NativeGraph) -> None:
    expected = function(*ARGUMENTS)
    results = graph(ARGUMENTS)
    assert len(results) == len(expected)
    for result, (name, tensor) in zip(results, expected.items(), strict=True):
        torch.testing.assert_close(result, tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_every_call_gives_the_same_bits_and_leaves_earlier_results_alone(graph: NativeGraph) -> None:
    first = graph(ARGUMENTS)
    kept = [tensor.clone() for tensor in first]
    for _ in range(50):
        graph([draw(33, 17, seed=5), *ARGUMENTS[1:]])
        assert all(map(torch.equal, graph(ARGUMENTS), kept))
    assert all(map(torch.equal, first, kept))


def test_arguments_are_not_changed_and_may_be_dropped(graph: NativeGraph) -> None:
    arguments = [tensor.clone() for tensor in ARGUMENTS]
    expected = [tensor.clone() for tensor in graph(arguments)]
    assert all(map(torch.equal, arguments, ARGUMENTS))
    results = graph(arguments)
    arguments.clear()
    for seed in range(20):
        graph([draw(33, 17, seed=seed), draw(17, 16, seed=seed), ARGUMENTS[2]])
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("threads", [2, 4])
def test_calls_from_several_threads_may_overlap(graph: NativeGraph, threads: int) -> None:
    inputs = [(draw(33, 17, seed=seed), *ARGUMENTS[1:]) for seed in range(40)]
    expected = [graph(arguments) for arguments in inputs]
    with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
        results = list(pool.map(graph, inputs * 10))
    for i, tensors in enumerate(results):
        assert all(map(torch.equal, tensors, expected[i % len(inputs)]))


def test_strides_and_offsets_of_arguments_do_not_matter(graph: NativeGraph) -> None:
    x, weight, rows = ARGUMENTS
    expected = graph(ARGUMENTS)
    offset = torch.cat((torch.zeros(1), x.flatten()))[1:].view_as(x)
    assert offset.storage_offset() == 1
    for other in (x.T.contiguous().T, torch.stack((x, x), 1)[:, 0], offset):
        assert all(map(torch.equal, graph((other, weight, rows)), expected))
    ones = torch.ones(1, 17)
    assert all(map(torch.equal, graph((ones.expand(33, 17), weight, rows)), graph((ones.repeat(33, 1), weight, rows))))


@pytest.mark.parametrize(
    "x",
    [draw(33, 18), draw(32, 17), draw(17, 33), draw(33, 17).double(), draw(1, 33, 17)],
    ids=["wider", "shorter", "transposed", "float64", "more axes"],
)
def test_other_shapes_and_types_are_refused(graph: NativeGraph, x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"compiled for torch.float32 \[33, 17\], got"):
        graph((x, *ARGUMENTS[1:]))


def test_too_few_tensors_are_refused(graph: NativeGraph) -> None:
    with pytest.raises(ValueError, match="zip"):
        graph(ARGUMENTS[:2])


@pytest.mark.usefixtures("native", "graph")
def test_a_graph_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(module, "_compile", refuse)
    again = NativeGraph(graph_of(), 1)
    torch.testing.assert_close(again(ARGUMENTS)[0], function(*ARGUMENTS)["y"], rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError, match="compiled again"):
        NativeGraph(graph_of(lambda x, weight, rows: {"y": torch.sinh(x @ weight)}), 1)


def weighted(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x @ x * torch.tensor([factor, 1.0, 1.0, 1.0])


@pytest.mark.slow
@pytest.mark.usefixtures("native")
def test_graphs_that_differ_in_a_constant_are_not_confused() -> None:
    x = draw(4, 4)
    for factor in (2.0, 3.0):
        (result,) = NativeGraph(graph_of(weighted(factor), x), 1)([x])
        torch.testing.assert_close(result, weighted(factor)(x))


def library(monkeypatch: pytest.MonkeyPatch, graph: GraphModule) -> Path:
    """Path of a graph's library; it is not compiled."""

    def create_empty(_: GraphModule, __: list[Tensor], path: Path) -> None:
        path.touch()

    monkeypatch.setattr(module, "_compile", create_empty)
    return module._build_library(graph, [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")])


def test_graphs_that_differ_have_different_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(4, 4)

    def product(x: Tensor, factor: float = 2.0) -> Tensor:
        return x @ x * factor

    graphs = {
        "first": graph_of(product, x),
        "again": graph_of(lambda other: other @ other * 2.0, x.clone()),
        "number": graph_of(lambda x: product(x, 3.0), x),
        "operation": graph_of(lambda x: x @ x + 2.0, x),
        "shape": graph_of(product, x.repeat(2, 2)),
        "layout": graph_of(product, x.T),
        "type": graph_of(product, x.double()),
    }
    paths = {name: library(monkeypatch, graph) for name, graph in graphs.items()}
    assert paths["first"] == paths.pop("again")
    assert len(set(paths.values())) == len(paths), paths


def test_a_missing_compiler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with pytest.raises(
        UserError, match=r"^engine.strategy: there is no C\+\+ compiler '/nonexistent/g\+\+'; allowed: loop"
    ):
        NativeGraph(graph_of(), 1)
    assert not list(cache_folder().glob("*.so"))


@pytest.mark.parametrize("size", [None, 0, 100, 5000])
@pytest.mark.usefixtures("graph")
def test_a_missing_or_truncated_library_is_compiled_again(
    compiled_home: Path, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = library(monkeypatch, graph_of())
    whole, digest = (compiled_home / "engine" / path.with_suffix(suffix).name for suffix in (".so", ".sha256"))
    shutil.copy(digest, path.parent)
    path.unlink()
    if size is not None:
        path.write_bytes(whole.read_bytes()[:size])
    built = []

    def build(_: GraphModule, __: list[Tensor], path: Path) -> None:
        built.append(path)
        os.replace(shutil.copy(whole, path.with_suffix(".new")), path)

    monkeypatch.setattr(module, "_compile", build)
    again = NativeGraph(graph_of(), 1)
    assert built == [path]
    torch.testing.assert_close(again(ARGUMENTS)[0], function(*ARGUMENTS)["y"], rtol=1e-5, atol=1e-6)


def test_a_library_that_does_not_load_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_: GraphModule, __: list[Tensor], path: Path) -> None:
        path.write_text("no library")

    monkeypatch.setattr(module, "_compile", build)
    with pytest.raises(CompileError, match=rf"^the compiled graph does not load: {cache_folder()}[^\n]*$"):
        NativeGraph(graph_of(), 1)


SCRIPT = """
import sys, torch
from distmeta.engine.graphs.native import NativeGraph
from distmeta.engine.graphs.tracing import trace
x = torch.linspace(0, 1, 12).reshape(3, 4)
module, _ = trace(lambda x: torch.tanh(x @ x.T), x)
print("ready", flush=True)
sys.stdin.readline()
print(NativeGraph(module, 1)([x])[0].sum().item())
"""


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_home")
def test_of_two_processes_one_compiles(tmp_path: Path) -> None:
    home = tmp_path / "home"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "DISTMETA_HOME": str(home)},
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert sorted(path.suffix for path in (home / "engine").iterdir() if path.is_file()) == [".lock", ".sha256", ".so"]
