"""Graphs compiled in the process: own memory for inputs and results; on CUDA, captured graphs."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from distmeta.engine.graphs import inductor
from distmeta.engine.graphs.cuda_graph import captured
from distmeta.engine.graphs.tracing import trace

from ....logged import Logged

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
"""On the CPU, where `NativeGraph` is used instead, the graph is not compiled: it runs operation by operation."""


def draw(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def function(x: Tensor, weight: Tensor, row: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """A product, numbers of the program, and results that alias arguments or one another."""
    y = torch.tanh(x @ weight + row) * torch.tensor([1.0, 2.0, 4.0], dtype=x.dtype, device=x.device)
    spread = y.sum(0, keepdim=True).expand(4, 3)
    return {"y": y, "same": y, "argument": weight, "transposed": weight.T, "spread": spread, "labels": labels + 1}


def arguments(seed: int, device: str) -> tuple[Tensor, ...]:
    """The third shares one row's memory among all rows; the first leaves gaps."""
    x, row = draw(5, 8, seed=seed, device=device)[:, ::2], draw(1, 3, seed=seed + 1, device=device).expand(5, 3)
    return x, draw(4, 3, seed=seed + 2, device=device), row, torch.arange(5, device=device) + seed


def problems(logged: Logged) -> list[str]:
    return [record.message for record in logged.records if record.name.startswith("distmeta")]


@pytest.mark.parametrize("device", DEVICES)
def test_each_call_computes_its_own_arguments_and_leaves_earlier_results(
    device: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        monkeypatch.setattr(inductor, "_compile", lambda module, examples: module)
    module, structure = trace(function, *arguments(0, device))
    graph = inductor.InductorGraph(module)
    cases = [arguments(seed, device) for seed in range(3)]
    results = [structure.rebuild(graph(case)) for case in cases]
    for case, result in zip(cases, results, strict=True):
        for name, expected in function(*case).items():
            torch.testing.assert_close(result[name], expected, rtol=1e-12, atol=1e-12)
    assert not problems(logged), "the graph was captured"
    x, weight, row, labels = cases[0]
    for wrong in ((x[:4], weight, row, labels), (x.float(), weight, row, labels), (x, weight, row)):
        with pytest.raises(ValueError, match=r"compiled for|argument 2"):
            graph(wrong)


@pytest.mark.gpu
def test_what_cannot_be_captured_runs_without_and_breaks_nothing(logged: Logged) -> None:
    x = torch.ones(3, device="cuda")
    run = captured(lambda: [x * x.sum().item()], x.device)  # waits for the device, which a capture forbids
    (message,) = problems(logged)
    assert "cannot be captured as a CUDA graph" in message
    for value in (1.0, 2.0):
        assert run()[0].tolist() == [3 * value**2] * 3
        x.fill_(2.0)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    state = torch.cuda.get_rng_state()
    numbers = torch.rand(4, device="cuda")
    assert not torch.equal(torch.rand(4, device="cuda"), numbers)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(4, device="cuda"), numbers)
    after = captured(lambda: [x + 1.0], x.device)
    x.fill_(5.0)
    assert after()[0].tolist() == [6.0] * 3
    assert len(problems(logged)) == 1


@pytest.mark.gpu
def test_a_graph_is_captured_while_another_thread_uses_the_device(logged: Logged) -> None:
    done, size = threading.Event(), 1 << 16

    def copy() -> None:
        while not done.is_set():
            torch.ones(size).pin_memory().to("cuda", non_blocking=True).sum().item()

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        weight = draw(64, 64, device="cuda")
        for _ in range(10):
            run = captured(lambda: [weight @ weight], weight.device)
            weight.mul_(0.5)
            torch.testing.assert_close(run()[0], weight @ weight)
    finally:
        done.set()
        thread.join()
    assert not problems(logged)
