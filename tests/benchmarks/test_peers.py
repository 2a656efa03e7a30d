"""The peers against the engine, on small problems in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.engine.common.agreement import compare
from benchmarks.engine.common.contenders import make_contender
from benchmarks.engine.common.peers import PEERS, left_out
from benchmarks.engine.common.problems import Problem, images, problem
from benchmarks.engine.common.workload import Workload, make_workload
from benchmarks.machine import count_flop
from distmeta.config import AlgorithmConfig
from distmeta.config.models import Conv4Config, MlpConfig
from distmeta.config.tasks import SinusoidTasks
from distmeta.methods import anil, fomaml, maml, meta_sgd, protonet, reptile


def characters(method: AlgorithmConfig, shots: int = 2, **settings: object) -> Problem:
    model = Conv4Config.model_validate({"filters": 4, **settings})
    return problem("small", "small", images(3, shots, 2, size=16), model, method, 2)


WAVES = problem("waves", "small", SinusoidTasks(), MlpConfig(hidden=(8, 6)), maml(lr=0.01, steps=3), 3)
PROBLEMS = {
    "waves": WAVES,
    "maml": characters(maml(lr=0.1, steps=2)),
    "pooled": characters(maml(lr=0.1, steps=2), downsample="pool"),
    "anil": characters(anil(steps=3)),
    "protonet": characters(protonet()),
    "reptile": characters(reptile(steps=3, batch=4), shots=4),
}


def perturbed(workload: Workload) -> Workload:
    """Moved away from initialisation, so that no bias is zero and no scale is one."""
    rng = torch.Generator().manual_seed(1)
    meta = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng).to(tensor)
        for name, tensor in workload.meta.items()
    }
    return replace(workload, meta=meta)


PAIRS = [(name, peer) for name in PROBLEMS for peer in PEERS if left_out(peer, PROBLEMS[name].config) is None]


@pytest.mark.parametrize(("name", "peer"), PAIRS)
def test_a_peer_computes_the_gradient_of_the_engine(name: str, peer: str) -> None:
    config = PROBLEMS[name].config
    workload = perturbed(make_workload(config).as_type(torch.float64))
    before = {name: tensor.clone() for name, tensor in workload.meta.items()}
    run, expected = PEERS[peer](workload), make_contender("loop", workload, 1, 1).run()
    first, second = run(), run()
    # Reptile: torch's Adam adds its epsilon beside the root, the engine's also below it.
    agreement = compare(first, expected, with_silent=name != "reptile")
    assert agreement.error < (1e-6 if name == "reptile" else 1e-10)
    assert agreement.silent_error is None or agreement.silent_error < 1e-10
    assert all(bool((first[name] == second[name]).all()) for name in first)
    assert all(bool((workload.meta[name] == before[name]).all()) for name in before)


@pytest.mark.parametrize(
    "method", [fomaml(), anil(), meta_sgd(), protonet(), reptile()], ids=lambda method: method.method
)
def test_other_libraries_are_compared_on_plain_maml_only(method: AlgorithmConfig) -> None:
    config = characters(method).config
    assert left_out("plain_loop", config) is None
    assert "SGD" in str(left_out("higher", config))
    assert "SGD" in str(left_out("torchopt", config))


def test_the_reason_for_an_absent_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert left_out("higher", WAVES.config) == "higher is not installed; `pip install 'distmeta[dev]'` installs it"


def test_flop_of_the_waves_are_those_on_paper() -> None:
    config = problem("w", "", SinusoidTasks(shots=7, queries=7), MlpConfig(hidden=(8, 6)), maml(steps=0), 1).config
    workload = make_workload(config)
    products = 2 * 7 * (1 * 8 + 8 * 6 + 6 * 1)  # of the query points, forward
    backward = products + 2 * 7 * (8 * 6 + 6 * 1)  # to the weights; to all activations but the input
    assert count_flop(PEERS["plain_loop"](workload)) == products + backward
