"""LSTM, conditional neural process and in-context transformer, compared with torch's modules of the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from distmeta.config import InContextConfig, LstmConfig, NeuralProcessConfig
from distmeta.core.types import QUERY, SUPPORT, Batch, Episode, Params
from distmeta.methods.learners.base import Learner
from distmeta.methods.learners.in_context import InContextLearner
from distmeta.methods.learners.lstm import LstmLearner
from distmeta.methods.learners.neural_process import NeuralProcessLearner
from distmeta.methods.objectives import OBJECTIVES
from distmeta.methods.terms import OuterTerm
from distmeta.models.base import Backbone, Frame
from distmeta.models.network import Network

from ..adapting import adapt, predict
from .problems import (
    EXACT,
    FIRST_ORDER,
    LOOP,
    WAY,
    classification,
    conv4,
    mean_gradient,
    mean_over_tasks,
    mlp,
    perturbed,
    regression,
    relative_error,
    single_tasks,
    terms_of,
    update,
    worst_relative_error,
)

TOLERANCE = 1e-12
OUTPUTS = 2
"""Outputs of the regression tasks."""
LIKELIHOOD = (OuterTerm(QUERY, OBJECTIVES["gaussian"], head="distribution"),)


def lstm(backbone: Backbone, episodes: Episode, layers: int = 2) -> LstmLearner:
    return LstmLearner(LstmConfig(width=5, layers=layers), backbone)


def neural_process(backbone: Backbone, episodes: Episode) -> NeuralProcessLearner:
    config = NeuralProcessConfig(width=6, encoder_layers=2, decoder_layers=3)
    return NeuralProcessLearner(config, backbone, classifies=not is_regression(episodes))


def in_context(backbone: Backbone, episodes: Episode) -> InContextLearner:
    return InContextLearner(InContextConfig(width=8, layers=2, attention_heads=2, hidden=12), backbone)


MAKERS: dict[str, Callable[[Backbone, Episode], Learner]] = {
    "lstm": lstm,
    "neural_process": neural_process,
    "in_context": in_context,
}


def is_regression(episodes: Episode) -> bool:
    targets = episodes.query.targets
    assert targets is not None
    return targets.is_floating_point()


@pytest.fixture(params=["classification", "regression"])
def problem(request: pytest.FixtureRequest) -> tuple[Backbone, Episode]:
    if request.param == "classification":
        return mlp(), classification(6)
    return mlp(outputs=OUTPUTS), regression(outputs=OUTPUTS)


def training_terms(learner: Learner, episodes: Episode) -> tuple[OuterTerm, ...]:
    """The outer loss that the preset of a learner has."""
    usual, heads = terms_of(episodes), learner.own_heads or {}
    if "distribution" in heads:
        return LIKELIHOOD
    along = OuterTerm(SUPPORT, usual[0].objective, weight=0.7, head="sequence")
    return (*usual, along) if "sequence" in heads else usual


def features(backbone: Backbone, meta: Params, inputs: Tensor) -> Tensor:
    return backbone.features(meta, inputs, Frame())


def vectors(batch: Batch) -> Tensor:
    """One-hot labels, or the targets."""
    assert batch.targets is not None
    return batch.targets if batch.targets.is_floating_point() else F.one_hot(batch.targets, WAY).double()


def loss_of(outputs: Tensor, batch: Batch) -> Tensor:
    assert batch.targets is not None
    return (
        F.mse_loss(outputs, batch.targets)
        if batch.targets.is_floating_point()
        else F.cross_entropy(outputs, batch.targets)
    )


def leaves_of(meta: Params) -> Params:
    return {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}


def gradient_of(loss: Tensor, leaves: Params) -> Params:
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True))


def call(module: nn.Module, params: Params, *inputs: Tensor, **options: Tensor) -> Tensor:
    """A module's outputs with these parameters."""
    outputs = torch.func.functional_call(module.double(), params, inputs, options)
    found: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return found


def as_torch_lstm(meta: Params, layers: int) -> Params:
    params: Params = {}
    for layer in range(layers):
        name = f"lstm.layer{layer + 1}"
        params[f"weight_ih_l{layer}"], params[f"bias_ih_l{layer}"] = (
            meta[f"{name}.input.weight"],
            meta[f"{name}.input.bias"],
        )
        params[f"weight_hh_l{layer}"] = meta[f"{name}.hidden.weight"]
        params[f"bias_hh_l{layer}"] = torch.zeros_like(meta[f"{name}.input.bias"])
    return params


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstm_is_that_of_torch_over_the_support_set_and_one_query(
    problem: tuple[Backbone, Episode], layers: int
) -> None:
    backbone, episodes = problem
    learner = lstm(backbone, episodes, layers)
    meta, expected = perturbed(learner.init(0)), []
    for task in single_tasks(episodes):
        leaves, labels = leaves_of(meta), vectors(task.support)
        read = torch.cat((torch.zeros_like(labels[:1]), labels))
        module = nn.LSTM(backbone.num_features + labels.shape[1], 5, layers)

        def positions(query: Tensor, leaves: Params = leaves, task: Episode = task, read: Tensor = read) -> Tensor:
            x = features(backbone, leaves, torch.cat((task.support.inputs, query[None])))
            hidden = call(module, as_torch_lstm(leaves, layers), torch.cat((x, read), 1))  # noqa: B023
            return hidden @ leaves["lstm.out.weight"].T + leaves["lstm.out.bias"]

        every = torch.stack([positions(query) for query in task.query.inputs])
        along, outputs = every[0, :-1], every[:, -1]
        fast = adapt(learner, meta, task.support)
        torch.testing.assert_close(fast.outputs, along.detach(), rtol=TOLERANCE, atol=TOLERANCE)
        predicted = predict(learner, meta, fast, task.support, task.query.inputs)
        torch.testing.assert_close(predicted, outputs.detach(), rtol=TOLERANCE, atol=TOLERANCE)
        expected.append(gradient_of(loss_of(outputs, task.query) + 0.7 * loss_of(along, task.support), leaves))
    for estimator in (EXACT, FIRST_ORDER):
        grads = mean_gradient(learner, estimator, meta, episodes, terms=training_terms(learner, episodes))
        assert worst_relative_error(grads, mean_over_tasks(expected)) < 1e-11


def as_torch_layer(meta: Params, block: str) -> Params:
    """Parameters of `nn.TransformerEncoderLayer`."""
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.1": "linear1",
        "mlp.2": "linear2",
        "attention.out": "self_attn.out_proj",
    }
    kinds = ("weight", "bias")
    params = {f"{theirs}.{kind}": meta[f"{block}.{ours}.{kind}"] for ours, theirs in names.items() for kind in kinds}
    for kind in kinds:
        joined = torch.cat([meta[f"{block}.attention.{part}.{kind}"] for part in ("query", "key", "value")])
        params[f"self_attn.in_proj_{kind}"] = joined
    return params


def test_the_transformer_is_that_of_torch_with_attention_to_the_support_set(problem: tuple[Backbone, Episode]) -> None:
    backbone, episodes = problem
    learner = in_context(backbone, episodes)
    meta, expected = perturbed(learner.init(0)), []
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    for task in single_tasks(episodes):
        leaves, support = leaves_of(meta), len(task.support.inputs)
        x = features(backbone, leaves, torch.cat((task.support.inputs, task.query.inputs)))
        marks = vectors(task.support) @ leaves["in_context.label.weight"].T
        unlabelled = leaves["in_context.unlabelled"].expand(len(x) - support, -1)
        tokens = (
            x @ leaves["in_context.input.weight"].T + leaves["in_context.input.bias"] + torch.cat((marks, unlabelled))
        )
        mask = (torch.arange(len(x)) >= support).expand(len(x), -1)  # nobody attends to queries
        for block in (1, 2):
            tokens = call(layer, as_torch_layer(leaves, f"in_context.block{block}"), tokens[None], src_mask=mask)[0]
        normed = F.layer_norm(tokens[support:], (8,), leaves["in_context.norm.weight"], leaves["in_context.norm.bias"])
        outputs = normed @ leaves["in_context.out.weight"].T + leaves["in_context.out.bias"]
        predicted = predict(learner, meta, adapt(learner, meta, task.support), task.support, task.query.inputs)
        torch.testing.assert_close(predicted, outputs.detach(), rtol=TOLERANCE, atol=TOLERANCE)
        expected.append(gradient_of(loss_of(outputs, task.query), leaves))
    for estimator in (EXACT, FIRST_ORDER):
        assert (
            worst_relative_error(mean_gradient(learner, estimator, meta, episodes), mean_over_tasks(expected)) < 1e-11
        )


def perceptron(params: Params, name: str, layers: int, x: Tensor) -> Tensor:
    for layer in range(1, layers + 1):
        x = F.linear(x, params[f"process.{name}.{layer}.weight"], params[f"process.{name}.{layer}.bias"])
        x = x.clamp_min(0) if layer < layers else x
    return x


def test_the_neural_process_maximises_the_likelihood_of_torch_distributions() -> None:
    backbone, episodes = mlp(outputs=OUTPUTS), regression(outputs=OUTPUTS)
    learner = neural_process(backbone, episodes)
    meta, expected, likelihoods, errors = perturbed(learner.init(0)), [], 0.0, 0.0
    for task in single_tasks(episodes):
        leaves = leaves_of(meta)
        pairs = torch.cat((features(backbone, leaves, task.support.inputs), vectors(task.support)), 1)
        summary = torch.stack([perceptron(leaves, "encoder", 2, pair) for pair in pairs]).mean(0)
        x = features(backbone, leaves, task.query.inputs)
        decoded = perceptron(leaves, "decoder", 3, torch.cat((x, summary.repeat(len(x), 1)), 1))
        mean, deviation = decoded[:, :OUTPUTS], 0.1 + 0.9 * F.softplus(decoded[:, OUTPUTS:])
        assert task.query.targets is not None
        likelihood = Normal(mean, deviation).log_prob(task.query.targets).mean()
        expected.append(gradient_of(-likelihood, leaves))
        likelihoods += likelihood.item()
        errors += (mean - task.query.targets).square().mean().item()
        predicted = predict(learner, meta, adapt(learner, meta, task.support), task.support, task.query.inputs)
        torch.testing.assert_close(predicted, mean.detach(), rtol=TOLERANCE, atol=TOLERANCE)
    for estimator in (EXACT, FIRST_ORDER):
        grads = mean_gradient(learner, estimator, meta, episodes, terms=LIKELIHOOD)
        assert worst_relative_error(grads, mean_over_tasks(expected)) < 1e-11
    metrics = update(learner, EXACT, meta, episodes, terms=LIKELIHOOD).metrics
    assert metrics == pytest.approx({"loss": -likelihoods, "log_likelihood": likelihoods, "mse": errors}, rel=1e-12)


def test_the_classifying_neural_process_joins_the_means_of_the_classes() -> None:
    backbone, episodes = mlp(), classification(6)
    learner = neural_process(backbone, episodes)
    meta, expected = perturbed(learner.init(0)), []
    for task in single_tasks(episodes):
        leaves = leaves_of(meta)
        encoded = perceptron(leaves, "encoder", 2, features(backbone, leaves, task.support.inputs))
        means = [encoded[task.support.targets == label].mean(0) for label in range(WAY)]
        x = features(backbone, leaves, task.query.inputs)
        outputs = perceptron(leaves, "decoder", 3, torch.cat((x, torch.cat(means).repeat(len(x), 1)), 1))
        predicted = predict(learner, meta, adapt(learner, meta, task.support), task.support, task.query.inputs)
        torch.testing.assert_close(predicted, outputs.detach(), rtol=TOLERANCE, atol=TOLERANCE)
        expected.append(gradient_of(loss_of(outputs, task.query), leaves))
    assert worst_relative_error(mean_gradient(learner, EXACT, meta, episodes), mean_over_tasks(expected)) < 1e-11


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_those_of_central_differences(problem: tuple[Backbone, Episode], name: str) -> None:
    backbone, episodes = problem
    learner = MAKERS[name](backbone, episodes)
    meta, terms, step = perturbed(learner.init(0)), training_terms(learner, episodes), 1e-5
    grads = mean_gradient(learner, EXACT, meta, episodes, terms=terms)
    assert set(grads) == set(meta)
    for seed in range(3):
        direction = perturbed({name: torch.zeros_like(tensor) for name, tensor in meta.items()}, seed, 1.0)
        losses = [
            update(
                learner,
                EXACT,
                {name: tensor + sign * step * direction[name] for name, tensor in meta.items()},
                episodes,
                terms=terms,
            ).metrics["loss"]
            for sign in (1, -1)
        ]
        slope = (losses[0] - losses[1]) / (2 * step * episodes.num_tasks)
        assert slope == pytest.approx(sum(float((grads[name] * direction[name]).sum()) for name in meta), rel=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_a_loop_over_tasks_gives_the_same_gradient(problem: tuple[Backbone, Episode], name: str) -> None:
    backbone, episodes = problem
    learner = MAKERS[name](backbone, episodes)
    meta, terms = perturbed(learner.init(0)), training_terms(learner, episodes)
    vmapped = mean_gradient(learner, EXACT, meta, episodes, terms=terms)
    assert relative_error(mean_gradient(learner, EXACT, meta, episodes, LOOP, terms), vmapped) < TOLERANCE


@pytest.mark.parametrize("network", ["mlp", "conv4"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_prediction_for_a_query_depends_on_no_other_query(name: str, network: str) -> None:
    """With an inductive network."""
    backbone = mlp() if network == "mlp" else conv4(norm="support")
    episodes = classification(6) if network == "mlp" else classification(1, 16, 16)
    learner = MAKERS[name](backbone, episodes)
    meta, task = perturbed(learner.init(0)), single_tasks(episodes)[0]
    fast = adapt(learner, meta, task.support)
    together = predict(learner, meta, fast, task.support, task.query.inputs)
    for row, query in enumerate(task.query.inputs):
        alone = predict(learner, meta, fast, task.support, query[None])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", MAKERS)
def test_what_the_order_of_the_support_set_changes(problem: tuple[Backbone, Episode], name: str) -> None:
    backbone, episodes = problem
    learner = MAKERS[name](backbone, episodes)
    meta, task = perturbed(learner.init(0), size=0.5), single_tasks(episodes)[0]
    turned = task.support.map(lambda tensor: tensor.flip(0))
    outputs = [
        predict(learner, meta, adapt(learner, meta, support), support, task.query.inputs)
        for support in (task.support, turned)
    ]
    difference = float((outputs[0] - outputs[1]).abs().max())
    assert difference > 1e-3 if name == "lstm" else difference < TOLERANCE * max(1.0, float(outputs[0].abs().max()))


def test_predictions_along_the_support_set_do_not_see_the_label_to_come(problem: tuple[Backbone, Episode]) -> None:
    backbone, episodes = problem
    learner = lstm(backbone, episodes)
    meta, task = perturbed(learner.init(0), size=0.5), single_tasks(episodes)[0]
    for position in range(len(task.support.inputs)):
        targets = vectors(task.support).clone()
        targets[position] = targets[position].roll(1) + is_regression(episodes)
        changed = Batch(task.support.inputs, targets if is_regression(episodes) else targets.argmax(1))
        net = Network(backbone, training=False)
        before, after = (
            learner.predict(
                net, meta, adapt(learner, meta, each), Episode({SUPPORT: each}), each.inputs, head="sequence"
            )
            for each in (task.support, changed)
        )
        assert torch.equal(before[: position + 1], after[: position + 1])
        later = (before - after)[position + 1 :]
        assert bool((later.abs().amax(1) > 1e-8).all())


def test_the_likelihood_is_exact_for_numbers_far_away() -> None:
    outputs = torch.tensor([[0.0, 0.1], [1e4, 2.0]], dtype=torch.float64)
    targets = torch.tensor([[1e3], [1e4]], dtype=torch.float64)
    loss, metrics = OBJECTIVES["gaussian"](lambda inputs: outputs, Batch(torch.zeros(2, 1), targets))
    first = -0.5 * 1e8 - math.log(0.1) - 0.5 * math.log(2 * math.pi)
    second = -math.log(2.0) - 0.5 * math.log(2 * math.pi)
    assert metrics["log_likelihood"].item() == pytest.approx((first + second) / 2, rel=1e-12)
    assert loss.item() == -metrics["log_likelihood"].item()


def test_the_deviation_has_its_bound() -> None:
    backbone, episodes = mlp(outputs=OUTPUTS), regression(outputs=OUTPUTS)
    learner = neural_process(backbone, episodes)
    meta, task = perturbed(learner.init(0), size=3.0), single_tasks(episodes)[0]
    net, fast = Network(backbone, training=False), adapt(learner, meta, task.support)
    spread = learner.predict(net, meta, fast, task, 100 * task.query.inputs, head="distribution")[:, OUTPUTS:]
    assert bool((spread >= 0.1).all())
