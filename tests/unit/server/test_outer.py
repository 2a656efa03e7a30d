"""The outer optimizer, compared with torch's optimizers and with closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from distmeta.config import OuterConfig
from distmeta.core.errors import UserError
from distmeta.core.tensors import cloned, digest, global_norm
from distmeta.core.types import Params
from distmeta.server.outer import OuterOptimizer, check_optimizer, learning_rate, optimizers


def make_params(dtype: torch.dtype = torch.float32) -> Params:
    generator = torch.Generator().manual_seed(0)
    shapes = {"body.weight": (4, 3), "body.bias": (4,), "scale": ()}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def grad_of(step: int, params: Params) -> Params:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in params.items()}


def run(optimizer: OuterOptimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.step(grad_of(step, optimizer.params))


@pytest.mark.parametrize(
    ("name", "options"),
    [("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {"betas": (0.8, 0.95)}), ("AdamW", {"weight_decay": 0.1})],
)
def test_steps_are_those_of_the_torch_optimizer(name: str, options: dict[str, float]) -> None:
    params = make_params()
    ours = OuterOptimizer(params, OuterConfig(optimizer=name, lr=0.1, options=options), 10)
    leaves = cloned(params)
    theirs = getattr(torch.optim, name)(leaves.values(), lr=0.1, **options)
    for step in range(5):
        grad = grad_of(step, leaves)
        for key, leaf in leaves.items():
            leaf.grad = grad[key].clone()
        theirs.step()
    run(ours, 0, 5)
    assert digest(ours.params) == digest(leaves)


def test_arguments_are_not_changed() -> None:
    params = make_params()
    grad = grad_of(0, params)
    before = digest(params), digest(grad)
    config = OuterConfig(optimizer="SGD", options={"momentum": 0.9, "nesterov": True}, clip_norm=0.1, average=0.5)
    OuterOptimizer(params, config, 10).step(grad)
    assert (digest(params), digest(grad)) == before


@pytest.mark.parametrize("name", sorted(set(optimizers()) - {"Muon"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_optimizer_resumes_to_the_same_bits(name: str, dtype: torch.dtype) -> None:
    params = make_params(dtype)
    config = OuterConfig(optimizer=name, schedule="cosine", warmup_steps=2, average=0.9, interpolation=0.5)
    straight = OuterOptimizer(params, config, 10)
    run(straight, 0, 10)
    first = OuterOptimizer(params, config, 10)
    run(first, 0, 5)
    second = OuterOptimizer(params, config, 10)
    second.load_state_dict(first.state_dict())
    run(second, 5, 10)
    assert digest(second.params) == digest(straight.params) != digest(params)
    assert second.average is not None and straight.average is not None
    assert digest(second.average) == digest(straight.average)


def test_muon_takes_matrices_only() -> None:
    config = OuterConfig(optimizer="Muon")
    OuterOptimizer({"w": torch.ones(3, 3)}, config, 10).step({"w": torch.ones(3, 3)})
    with pytest.raises(UserError, match=r"Muon refuses: .*2D"):
        OuterOptimizer(make_params(), config, 10)


def test_a_loaded_state_is_not_shared() -> None:
    config = OuterConfig(optimizer="Adam", average=0.9)
    optimizer = OuterOptimizer(make_params(), config, 10)
    run(optimizer, 0, 2)
    state = optimizer.state_dict()
    kept = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    other = OuterOptimizer(make_params(), config, 10)
    other.load_state_dict(state)
    run(other, 2, 4)
    run(optimizer, 2, 4)
    assert digest({name: value for name, value in state.items() if isinstance(value, torch.Tensor)}) == digest(kept)


def test_parameters_without_a_gradient_do_not_change() -> None:
    params = make_params()
    optimizer = OuterOptimizer(params, OuterConfig(optimizer="AdamW", options={"weight_decay": 0.5}), 10)
    optimizer.step(grad_of(0, params))
    before = cloned(optimizer.params)
    optimizer.step({"scale": torch.ones(())})
    assert torch.equal(optimizer.params["body.weight"], before["body.weight"])
    assert not torch.equal(optimizer.params["scale"], before["scale"])


def test_clipping_keeps_the_direction() -> None:
    params = make_params(torch.float64)
    grad = grad_of(0, params)
    optimizer = OuterOptimizer(params, OuterConfig(optimizer="SGD", lr=1.0, clip_norm=0.5), 10)
    metrics = optimizer.step(grad)
    moved = {name: params[name] - optimizer.params[name] for name in params}
    assert metrics == {"grad_norm": global_norm(grad), "clipped": 1.0, "lr": 1.0}
    assert global_norm(moved) == pytest.approx(0.5, rel=1e-12)
    torch.testing.assert_close(moved["scale"] / moved["body.bias"][0], grad["scale"] / grad["body.bias"][0])


def test_small_gradients_are_not_clipped() -> None:
    optimizer = OuterOptimizer({"w": torch.zeros(1)}, OuterConfig(optimizer="SGD", lr=1.0, clip_norm=2.0), 10)
    assert optimizer.step({"w": torch.tensor([1.5])})["clipped"] == 0.0
    assert optimizer.params["w"].item() == -1.5


def test_the_average_is_the_closed_form() -> None:
    optimizer = OuterOptimizer(
        {"w": torch.zeros(1, dtype=torch.float64)}, OuterConfig(optimizer="SGD", lr=1.0, average=0.2), 10
    )
    expected = 0.0
    for step in range(6):
        optimizer.step({"w": torch.tensor([-1.0], dtype=torch.float64)})
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert optimizer.average is not None
    assert optimizer.average["w"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("average", [0.0, 0.7])
def test_interpolation_is_the_share_of_the_way_from_the_start(average: float) -> None:
    start = {"w": torch.tensor([5.0, -1.0], dtype=torch.float64)}
    grad = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    whole, part = (
        OuterOptimizer(start, OuterConfig(optimizer="SGD", average=average, interpolation=share), 10)
        for share in (1.0, 0.25)
    )
    for _ in range(5):
        whole.step(grad)
        part.step(grad)
    assert digest(part.params) == digest(whole.params)
    evaluated = whole.params if whole.average is None else whole.average
    assert part.average is not None
    torch.testing.assert_close(part.average["w"], start["w"] + 0.25 * (evaluated["w"] - start["w"]), rtol=1e-12, atol=0)


def test_learning_rates_of_the_schedules() -> None:
    constant = OuterConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(constant, 10, step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    linear = OuterConfig(lr=2.0, schedule="linear", final_lr_fraction=0.5)
    assert [learning_rate(linear, 4, step) for step in (0, 1, 2, 3, 4, 9)] == pytest.approx([2, 1.75, 1.5, 1.25, 1, 1])
    cosine = OuterConfig(lr=1.0, schedule="cosine")
    expected = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    assert [learning_rate(cosine, 8, step) for step in range(9)] == pytest.approx(expected)
    short = OuterConfig(lr=1.0, schedule="cosine", warmup_steps=20)
    assert learning_rate(short, 5, 4) == pytest.approx(5 / 21)


def test_the_optimizer_uses_the_scheduled_rate() -> None:
    config = OuterConfig(optimizer="SGD", lr=1.0, schedule="linear", warmup_steps=1)
    optimizer = OuterOptimizer({"w": torch.zeros(1, dtype=torch.float64)}, config, 3)
    rates = [optimizer.step({"w": torch.ones(1, dtype=torch.float64)})["lr"] for _ in range(3)]
    assert rates == [optimizer.rate(step) for step in range(3)] == [0.5, 1.0, 0.5]
    assert optimizer.params["w"].item() == -2.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Addam", {}, "outer.optimizer: torch.optim has no optimizer 'Addam'; allowed: did you mean 'Adam'"),
        ("Optimizer", {}, "torch.optim has no optimizer 'Optimizer'"),
        ("LBFGS", {}, "LBFGS needs to evaluate the loss again"),
        ("SparseAdam", {}, "SparseAdam takes sparse gradients only.*did you mean 'Adam'"),
        ("Adam", {"momentun": 0.9}, "outer.options.momentun: Adam does not take 'momentun'; allowed: .*betas"),
        ("SGD", {"momentun": 0.9}, "SGD does not take 'momentun'; allowed: did you mean 'momentum'"),
        ("SGD", {"lr": 0.1}, "outer.options.lr: the rate has its own field; allowed: outer.lr"),
        ("SGD", {"momentum": -1.0}, "outer.options: SGD refuses: Invalid momentum"),
        ("Adam", {"betas": 0.9}, "outer.options: Adam refuses"),
        ("Adam", {"betas": (0.9,)}, "outer.options: Adam refuses"),
        ("Adam", {"betas": (0.9, 0.99, 0.999)}, "outer.options: Adam refuses"),
        ("Adam", {"differentiable": True}, "Adam does not take 'differentiable'"),
    ],
)
def test_invalid_optimizers_and_options_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_optimizer(OuterConfig(optimizer=name, options=options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "SGD"}, "the checkpoint's optimizer is SGD, that of the configuration Adam"),
        ({"num_steps": None}, "num_steps is None"),
        ({"params/scale": torch.zeros(3)}, r"'scale' is torch.float32 \[3\].*allowed: torch.float32 \[\]"),
        ({"params/scale": torch.zeros((), dtype=torch.float64)}, "'scale' is torch.float64"),
        ({"params/more": torch.zeros(3)}, r"\[\] are missing and \['more'\] unexpected"),
        ({"optimizer/more/step": torch.zeros(())}, "'optimizer/more/step' belongs to no parameter"),
        (
            {"optimizer/scale/more": torch.zeros(())},
            r"'optimizer/scale/' has \['exp_avg', .*'more', .*allowed: \['exp_avg'",
        ),
        ({"optimizer/scale/exp_avg": torch.zeros(3)}, r"'optimizer/scale/exp_avg' is torch.float32 \[3\].*\[\]"),
        (
            {"optimizer/scale/exp_avg": None},
            "'optimizer/scale/exp_avg' is NoneType in the checkpoint; allowed: torch.float32",
        ),
        (
            {"optimizer/scale/step": torch.tensor(-1.0)},
            "'optimizer/scale/step' is -1 in the checkpoint; allowed: 0 to 2",
        ),
        ({"optimizer/scale/step": torch.tensor(math.nan)}, "'optimizer/scale/step' is nan"),
        ({"optimizer/scale/step": torch.tensor(1e38)}, r"'optimizer/scale/step' is 1e\+38"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, object], message: str) -> None:
    optimizer = OuterOptimizer(make_params(), OuterConfig(optimizer="Adam"), 10)
    run(optimizer, 0, 2)
    before = digest(optimizer.params)
    with pytest.raises(UserError, match=message):
        optimizer.load_state_dict({**optimizer.state_dict(), **change})
    assert digest(optimizer.params) == before
    assert optimizer.num_steps == 2


def test_a_state_without_the_average_is_refused() -> None:
    plain = OuterOptimizer(make_params(), OuterConfig(optimizer="Adam"), 10)
    averaging = OuterOptimizer(make_params(), OuterConfig(optimizer="Adam", average=0.9), 10)
    with pytest.raises(UserError, match=r"in average/, .* are missing .*outer.average"):
        averaging.load_state_dict(plain.state_dict())
