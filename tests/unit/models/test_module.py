"""Any `torch.nn.Module` as a backbone: against torch's own modules, finite differences, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distmeta.config import BackpropConfig, EngineConfig, GradientConfig, Phase
from distmeta.core.errors import UserError
from distmeta.core.tensors import digest
from distmeta.core.types import Batch, Episode
from distmeta.engine.engine import Engine
from distmeta.methods.estimators.backprop import Backprop
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models.base import INDUCTIVE, TRANSDUCTIVE
from distmeta.models.module import ModuleBackbone
from distmeta.models.network import Network

from ...adapting import query_term

Make = Callable[[tuple[int, ...], int], nn.Module]
WAY = 3


class Sequence(nn.Module):
    """Embeds, attends, reads in order."""

    def __init__(self, shape: tuple[int, ...], num_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(shape[-1], 2, batch_first=True)
        self.norm = nn.LayerNorm(shape[-1])
        self.reader = nn.LSTM(shape[-1], 5, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(5, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.classify(self.dropout(self.reader(x)[0][:, -1]))  # type: ignore[no-any-return]


def images(shape: tuple[int, ...], num_outputs: int, dropout: float = 0.0, tracks: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3),
        nn.BatchNorm2d(4, track_running_stats=tracks),
        nn.Softplus(),
        nn.Dropout2d(dropout),
        nn.Conv2d(4, 6, 2),
        nn.GroupNorm(2, 6),
        nn.Flatten(),
        nn.Linear(6 * (shape[1] - 3) * (shape[2] - 3), num_outputs),
    )


SHAPES: dict[str, tuple[Make, tuple[int, ...]]] = {"images": (images, (2, 5, 5)), "sequence": (Sequence, (4, 6))}


def backbone(name: str = "images", dtype: torch.dtype = torch.float64, **options: object) -> ModuleBackbone:
    make, shape = SHAPES[name]
    return ModuleBackbone(lambda s, n: make(s, n, **options), shape, {"head": WAY}, dtype)


def tasks(shape: tuple[int, ...], num_tasks: int = 2, count: int = 6) -> Episode:
    rng = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        labels = torch.arange(count).remainder(WAY).expand(num_tasks, count)
        return Batch(torch.randn(num_tasks, count, *shape, generator=rng, dtype=torch.float64), labels.clone())

    return Episode({"support": batch(), "query": batch()}, torch.arange(num_tasks) + 11)


def engine(net: ModuleBackbone, strategy: str = "loop", steps: int = 2) -> Engine:
    learner = GradientLearner(GradientConfig(phases=(Phase(lr=0.1, steps=steps),)), net, "cross_entropy")
    config = EngineConfig.model_validate({"strategy": strategy, "dtype": "float64"})
    return Engine(learner, Backprop(BackpropConfig(order=2)), query_term(), config)


def test_outputs_and_running_statistics_are_those_of_torch() -> None:
    net, x = backbone(), torch.randn(7, 2, 5, 5, dtype=torch.float64)
    torch.manual_seed(3)
    module = images((2, 5, 5), WAY).double()
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    functional = Network(net, net.buffers())
    for _ in range(2):
        torch.testing.assert_close(functional(params, x), module.train()(x), rtol=1e-12, atol=1e-12)
    for name, tensor in functional.buffers.items():
        torch.testing.assert_close(tensor, module.state_dict()[name], rtol=1e-12, atol=1e-12)
    inductive = Network(net, functional.buffers, training=False)
    torch.testing.assert_close(inductive(params, x[:2]), module.eval()(x[:2]), rtol=1e-12, atol=1e-12)
    assert digest(inductive.buffers) == digest(functional.buffers)
    by_batch = Network(net.under(TRANSDUCTIVE), functional.buffers, training=False)
    assert not torch.allclose(by_batch(params, x[:2]), inductive(params, x[:2]))


@pytest.mark.parametrize("name", SHAPES)
def test_the_exact_gradient_is_that_of_finite_differences(name: str) -> None:
    net = backbone(name)
    assert net.limits.get("second_order") is None
    episodes, meta = tasks(SHAPES[name][1]), net.init(1)
    update, _ = engine(net).update({**meta, **net.buffers()}, episodes)
    rng = torch.Generator().manual_seed(5)
    direction = {key: torch.randn(tensor.shape, generator=rng, dtype=torch.float64) for key, tensor in meta.items()}

    def loss(size: float) -> float:
        moved = {key: tensor + size * direction[key] for key, tensor in meta.items()}
        return engine(net).update({**moved, **net.buffers()}, episodes)[0].metrics["loss"]

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    actual = sum(float((update.grad[key] * direction[key]).sum()) for key in meta)
    assert actual == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_dropout_draws_from_the_seeds_of_tasks_under_every_strategy(name: str) -> None:
    net, plain = backbone(name, dropout=0.4), backbone(name)
    assert net.is_random and not plain.is_random
    episodes, meta = tasks(SHAPES[name][1]), {**net.init(1), **net.buffers()}
    loop, _ = engine(net).update(meta, episodes)
    again, _ = engine(net).update(meta, episodes)
    assert digest(loop.grad) == digest(again.grad)
    if "vmap" not in net.limits:
        vmapped, _ = engine(net, "vmap").update(meta, episodes)
        assert all(torch.allclose(vmapped.grad[key], loop.grad[key], rtol=1e-9, atol=1e-12) for key in loop.grad)
    others, _ = engine(net).update(meta, Episode(episodes.roles, torch.tensor([5, 6])))
    assert digest(others.grad) != digest(loop.grad)
    assert engine(plain).update(meta, episodes)[0].metrics != loop.metrics
    predict = Network(net, net.buffers(), torch.tensor(1), training=False)
    x = episodes.query.inputs[0]
    assert torch.equal(predict(meta, x), Network(plain, plain.buffers(), training=False)(meta, x))


def test_frozen_parameters_stay_in_the_network() -> None:
    def make(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        module = nn.Sequential(nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, num_outputs))
        module[0].requires_grad_(False)
        return module

    net = ModuleBackbone(make, (4,), {"head": WAY}, torch.float64)
    meta = net.init(0)
    assert set(meta) == {"2.weight", "2.bias", "4.weight", "4.bias"}
    update, _ = engine(net).update(meta, tasks((4,)))
    assert set(update.grad) == set(meta)
    assert Network(net)(net.init(1), torch.ones(2, 4, dtype=torch.float64)).shape == (2, WAY)


def test_groups_have_the_names_of_children_and_the_head_is_the_last_linear_layer() -> None:
    net = backbone("sequence")
    groups = net.groups()
    assert groups["head"] == ("classify.weight", "classify.bias")
    assert groups["norm"] == ("norm.weight", "norm.bias")
    assert set(groups["reader"]) == {f"reader.{kind}_{gate}_l0" for kind in ("weight", "bias") for gate in ("ih", "hh")}
    assert set(groups["all"]) == set(groups["body"]) | set(groups["head"]) == set(net.init(0))
    assert (net.num_features, net.protocols, backbone().protocols) == (5, (INDUCTIVE,), (INDUCTIVE, TRANSDUCTIVE))
    assert backbone(tracks=False).protocols == (TRANSDUCTIVE,)


def test_initial_parameters_are_a_function_of_the_seed() -> None:
    net, state = backbone(), torch.get_rng_state()
    assert digest(net.init(3)) == digest(backbone().init(3)) != digest(net.init(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_without_a_linear_layer_is_all_body() -> None:
    net = ModuleBackbone(
        lambda s, n: nn.Sequential(nn.Conv1d(s[0], n, 2), nn.Flatten()), (2, 2), {"head": WAY}, torch.float64
    )
    x, params = torch.ones(4, 2, 2, dtype=torch.float64), net.init(0)
    assert Network(net)(params, x).shape == (4, WAY)
    assert net.groups()["head"] == ()


class _DrawsByItself(nn.Module):
    def __init__(self, shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(shape[0], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(x, 0.5, self.training))  # type: ignore[no-any-return]


class _SoftmaxAfterTheHead(_DrawsByItself):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.last(x), (1, 1))


def _wide(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 2 * num_outputs), nn.ReLU())


REFUSED: dict[str, tuple[Make, str]] = {
    "dropout by function": (_DrawsByItself, "draws random numbers or keeps state; allowed: torch.nn.Dropout layers"),
    "something after the head": (_SoftmaxAfterTheHead, "what follows 'last', the last linear layer"),
    "dropout of an LSTM": (lambda s, n: nn.LSTM(s[0], n, 2, dropout=0.5), "has dropout of its own"),
    "cumulative statistics": (
        lambda s, n: nn.Sequential(nn.BatchNorm1d(s[0], momentum=None), nn.Linear(s[0], n)),
        "averages its statistics over all batches",
    ),
    "other outputs": (_wide, "the network has 6 outputs, but the tasks need 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_function_is_refused_with_what_to_change(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        net = ModuleBackbone(make, (4,), {"head": WAY}, torch.float32)
        Network(net)(net.init(0), torch.ones(2, 4))


class _NormalisesByTheBatch(_DrawsByItself):
    def forward(self, x: Tensor) -> Tensor:
        return self.last((x - x.mean(0)) / (x.std(0) + 1e-3))  # type: ignore[no-any-return]


def test_a_network_that_normalises_by_the_batch_in_its_own_way_is_transductive() -> None:
    net = ModuleBackbone(_NormalisesByTheBatch, (4,), {"head": WAY}, torch.float64)
    assert (net.protocols, net.is_row_wise) == ((TRANSDUCTIVE,), False)
    assert backbone("sequence").is_row_wise


def test_a_head_can_be_named() -> None:
    def make(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[0], 6), nn.ReLU(), nn.Linear(6, num_outputs))

    with pytest.raises(UserError, match=r"model\.head: the module has no linear layer 'fc'; allowed: 0, 2"):
        ModuleBackbone(make, (4,), {"head": WAY}, torch.float32, head="fc")
    assert ModuleBackbone(make, (4,), {"head": WAY}, torch.float32, head="2").num_features == 6


def test_heads_of_other_names_take_the_place_of_the_modules_own() -> None:
    def make(shape: tuple[int, ...], num_outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[0], 6), nn.ReLU(), nn.Linear(6, num_outputs))

    net = ModuleBackbone(make, (4,), {"aux": WAY}, torch.float32)
    params = net.init(0)
    assert {name: list(tensor.shape) for name, tensor in params.items()} == {
        "0.weight": [6, 4],
        "0.bias": [6],
        "aux.weight": [WAY, 6],
        "aux.bias": [WAY],
    }
    assert net.groups()["all"] == tuple(params)
    assert Network(net)(params, torch.ones(2, 4), head="aux").shape == (2, WAY)


@pytest.mark.parametrize("kind", [Sequence, lambda *_: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, WAY))])
def test_threads_call_a_network_at_once_with_their_own_weights(kind: Make) -> None:
    shape = (3, 4) if kind is Sequence else (4,)
    network = ModuleBackbone(kind, shape, {"head": WAY}, torch.float32, limits={})
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    weights = [network.init(seed) for seed in range(4)]

    def outputs(seed: int) -> Tensor:
        with torch.no_grad():
            return Network(network)(weights[seed], x)

    expected = [outputs(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            for found, wanted in zip(pool.map(outputs, range(4)), expected, strict=True):
                assert torch.equal(found, wanted)
