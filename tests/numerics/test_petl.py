"""Transformers with tunable parts, compared with a BERT written by its equations, and with finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from distmeta.config import Phase
from distmeta.core.types import Episode, Params
from distmeta.engine.ops import EagerOps
from distmeta.methods.estimators.base import Estimator
from distmeta.methods.learners.gradient import GradientLearner
from distmeta.models.base import Frame
from distmeta.models.petl.families import is_block
from distmeta.models.petl.frozen import frozen_linear, round_matrices
from distmeta.models.petl.transformer import Transformer

from .. import petl_reference as reference
from ..adapting import walk
from .petl_problems import FAMILIES, KINDS, base_network, end_to_end, examples, kind_for, tasks, texts, transformer
from .problems import (
    EXACT,
    FIRST_ORDER,
    LOOP,
    VMAP,
    complete,
    gradient,
    mean_gradient,
    perturbed,
    relative_error,
    single_tasks,
    terms_of,
    worst_relative_error,
)
from .test_maml import slope

LR, STEPS = 0.2, 2


def with_gelu(part: dict[str, Any]) -> dict[str, Any]:
    """The part without the kinks of ReLU, where differences are no derivative."""
    return {**part, "activation": "gelu"} if part["kind"] == "adapter" else part


COMBINED = {
    "lora, ia3 and adapter": (
        {"kind": "lora", "rank": 2, "targets": ("query", "output", "ffn_in", "ffn_out")},
        {"kind": "ia3"},
        {"kind": "adapter", "width": 3},
    ),
    "mam and lora in one block": (KINDS["mam"], {"kind": "lora", "rank": 2, "layers": (1,)}),
}
PARTS: dict[str, tuple[dict[str, Any], ...]] = {
    **{name: (with_gelu(part),) for name, part in KINDS.items()},
    "adapter of relu": (KINDS["sequential adapter"],),
    **COMBINED,
}


def reference_of(network: Transformer) -> reference.Bert:
    """What the reference needs to know of a BERT with parts."""
    parts = {part.kind: part for part in network.config.petl}
    lora, adapter, prefix = parts.get("lora"), parts.get("adapter"), parts.get("prefix")
    mam = parts.get("mam")
    scale = adapter.scale if adapter else 4.0
    shares_softmax = prefix is not None and not prefix.gate
    return reference.Bert(
        weights=network.network.state_dict(),
        blocks=2,
        heads=4,
        lora_scale=lora.alpha / lora.rank if lora else 1.0,
        adapter_scale=scale,
        activation=reference.gelu if adapter and adapter.activation == "gelu" and not mam else torch.relu,
        prefix_length=prefix.length if prefix is not None and shares_softmax else 0,
    )


def learner_of(network: Transformer, steps: int = STEPS) -> GradientLearner:
    return gradient(network, Phase(lr=LR, steps=steps))


@pytest.mark.parametrize("name", PARTS)
def test_features_are_those_of_the_equations(name: str) -> None:
    network = transformer("bert", *PARTS[name])
    params, ids = perturbed(network.init(0)), texts(4)
    expected = reference.features(reference_of(network), params, ids)
    assert float((network.features(params, ids, Frame()) - expected).abs().max()) < 1e-12
    if name != "full":  # the parts matter
        assert float((network.features(network.init(0), ids, Frame()) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "estimator", [pytest.param(FIRST_ORDER, id="first order", marks=pytest.mark.slow), pytest.param(EXACT, id="exact")]
)
@pytest.mark.parametrize("name", PARTS)
def test_meta_gradients_are_those_of_the_equations(name: str, estimator: Estimator) -> None:
    network = transformer("bert", *PARTS[name])
    assert network._packs  # whose texts are laid end to end if their sizes are known
    meta, episodes = perturbed(network.init(0)), tasks("bert")
    support, query = ((batch.inputs, batch.targets) for batch in (episodes.support, episodes.query))
    expected = reference.meta_gradient(
        reference_of(network), meta, support, query, LR, STEPS, second_order=estimator is EXACT
    )
    for engine, laid in ((LOOP, episodes), (VMAP, episodes), (VMAP, end_to_end(episodes))):
        actual = mean_gradient(learner_of(network), estimator, meta, laid, engine)
        assert relative_error(actual, expected) < 1e-10
        assert worst_relative_error(actual, expected) < 1e-9


def test_orders_differ() -> None:
    # Otherwise the comparisons above could not tell them apart.
    network = transformer("bert", KINDS["lora"])
    meta, episodes = perturbed(network.init(0)), tasks("bert")
    first, second = (mean_gradient(learner_of(network), each, meta, episodes) for each in (FIRST_ORDER, EXACT))
    assert relative_error(first, second) > 1e-3


FAMILY_KINDS = [
    (family, name, part) for family in FAMILIES for name in KINDS if (part := kind_for(family, name)) is not None
]
IDS = [f"{family}-{name}" for family, name, _ in FAMILY_KINDS]


def base_features(network: Transformer, inputs: Tensor) -> Tensor:
    """Mean of the last hidden states that `transformers` computes."""
    base = base_network(network)
    if network.config.inputs == "pixels":
        return base(pixel_values=inputs).last_hidden_state.mean(1)  # type: ignore[no-any-return]
    keep = inputs != 0
    hidden = base(input_ids=inputs, attention_mask=keep.long()).last_hidden_state
    return (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("family", "name", "part"), FAMILY_KINDS, ids=IDS)
def test_parts_leave_the_network_as_it_was_until_they_are_trained(family: str, name: str, part: dict[str, Any]) -> None:
    network, inputs = transformer(family, part), examples(family, 4)
    with torch.no_grad():
        difference = network.features(network.init(0), inputs, Frame()) - base_features(network, inputs)
    is_exception = name.startswith("prefix")  # text and prefix share a softmax
    assert (float(difference.abs().max()) < 1e-12) != is_exception


@pytest.mark.parametrize("recompute", [False, True], ids=["usual", "recompute"])
@pytest.mark.parametrize("family", FAMILIES)
def test_taps_are_the_pooled_hidden_states_of_the_blocks(family: str, recompute: bool) -> None:
    network, inputs = transformer(family, kind_for(family, "lora") or {}, recompute=recompute), examples(family, 4)
    states: list[Tensor] = []
    base = base_network(network)
    for path, block in base.named_modules():
        if is_block(path):
            block.register_forward_hook(
                lambda *call: states.append(call[-1] if torch.is_tensor(call[-1]) else call[-1][0])
            )
    keep = torch.ones(4, 1) if family == "vit" else inputs != 0
    with torch.no_grad():
        given = {"pixel_values": inputs} if family == "vit" else {"input_ids": inputs, "attention_mask": keep.long()}
        base(**given)
        frame = Frame(taps={})
        network.features(network.init(0), inputs, frame)
    assert frame.taps is not None
    assert list(frame.taps) == ["block0", "block1"]
    for tap, hidden in zip(frame.taps.values(), states, strict=True):
        expected = hidden.mean(1) if family == "vit" else (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        assert float((tap - expected).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("family", "name", "part"),
    [pytest.param(*row, marks=() if row[0] == "bert" else pytest.mark.slow) for row in FAMILY_KINDS],
    ids=IDS,
)
def test_meta_gradients_are_those_of_central_differences(family: str, name: str, part: dict[str, Any]) -> None:
    network = transformer(family, with_gelu(part))
    if family == "llama":
        make_norms_exact(network)
    learner, meta, episodes = learner_of(network, 1), perturbed(network.init(0)), tasks(family)
    exact = complete(mean_gradient(learner, EXACT, meta, episodes), meta)
    length = sum(tensor.square().sum() for tensor in exact.values()) ** 0.5
    rng = torch.Generator().manual_seed(3)
    draw = {n: grad * torch.rand(grad.shape, generator=rng, dtype=grad.dtype) / length for n, grad in exact.items()}
    along = float(sum((exact[n] * draw[n]).sum() for n in meta))
    assert along == pytest.approx(slope(learner, meta, episodes, draw), rel=1e-6)


def make_norms_exact(network: Transformer) -> None:
    """Let Llama's norms and angles, which round to float32, compute in float64; differences need the digits."""
    for module in network.network.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.__dict__["forward"] = _Norm(module.__dict__.get("forward"), module)


class _Norm:
    """x / root of the mean square, times the weight: the call's, if it is tuned."""

    def __init__(self, tuned: Any, module: Any) -> None:
        self._tuned, self._module = tuned, module

    def __call__(self, x: Tensor) -> Tensor:
        from distmeta.models.petl.call import current

        name = next(iter(self._tuned._names.values())) if self._tuned is not None else ""
        weight = current().params.get(name, self._module.weight)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._module.variance_epsilon) * weight


@pytest.mark.parametrize("family", ["gpt2", "llama", "vit", "roberta"])
@pytest.mark.parametrize(
    "name",
    ["mam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "lora", "prefix, made", "ia3"))],
)
def test_strategies_agree_in_all_families(family: str, name: str) -> None:
    part = kind_for(family, name)
    assert part is not None
    network = transformer(family, part)
    meta, episodes = perturbed(network.init(0)), tasks(family, tasks=3)
    loop, together = (mean_gradient(learner_of(network), EXACT, meta, episodes, each) for each in (LOOP, VMAP))
    # Norms of Llama compute in float32 whatever the type of the network.
    assert relative_error(together, loop) < (1e-5 if family == "llama" else 1e-11)


@pytest.mark.parametrize(
    ("name", "frozen_dtype"),
    [pytest.param(name, None, marks=() if name in ("lora", "full") else pytest.mark.thorough) for name in KINDS]
    + [("lora", "bfloat16")],
)
def test_a_task_has_the_same_bits_alone_and_in_whatever_company(
    name: str, frozen_dtype: str | None, one_thread: None
) -> None:
    network = transformer("bert", KINDS[name], dtype=torch.float32, frozen_dtype=frozen_dtype)
    meta, episodes = perturbed(network.init(0)), tasks("bert", tasks=16)
    others = tasks("bert", tasks=16, seed=1)
    ops = EagerOps(learner_of(network), "vmap", terms_of(episodes), "unrolled")
    expected = adapted_and_gradient(ops, meta, episodes)
    for index, place in ((0, 11), (9, 0), (15, 15)):
        mixed = [tensor.clone() for tensor in others.tensors()]
        for tensor, own in zip(mixed, episodes.tensors(), strict=True):
            tensor[place] = own[index]
        for key, tensor in adapted_and_gradient(ops, meta, others.rebuild(mixed)).items():
            assert torch.equal(tensor[place], expected[key][index]), key
    alone = adapted_and_gradient(ops, meta, episodes.map(lambda tensor: tensor[:1]))
    for key, tensor in alone.items():
        assert torch.equal(tensor[0], expected[key][0]), key


def adapted_and_gradient(ops: EagerOps, meta: Params, episodes: Episode) -> Params:
    """Adapted weights of each task, and the gradient of its loss by these: [T, ...]."""
    state = ops.adapt(meta, episodes)
    slopes = ops.score_grad(meta, state, episodes)
    found = {f"adapted {name}": tensor for name, tensor in state.fast.moved.items()}
    gradients = [leaf for leaf in tree_leaves(slopes.by_state) if isinstance(leaf, Tensor)]
    assert found and gradients
    return found | {f"gradient {i}": leaf for i, leaf in enumerate(gradients)}


@pytest.mark.parametrize("estimator", [FIRST_ORDER, EXACT], ids=["first order", "second order"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_rounded_matrices_change_little(family: str, estimator: Estimator) -> None:
    part = kind_for(family, "lora") or {}
    network = transformer(family, part, dtype=torch.float32)
    rounded = transformer(family, part, dtype=torch.float32, frozen_dtype="bfloat16")
    assert rounded._packs == network._packs  # how texts are laid does not depend on it
    types = {name: weight.dtype for name, weight in rounded.network.named_parameters()}
    matrices = {name for name, weight in network.network.named_parameters() if weight.dim() == 2}
    assert {name for name, dtype in types.items() if dtype == torch.bfloat16} == matrices
    meta, episodes = perturbed(network.init(0)), tasks(family)
    assert {tensor.dtype for tensor in meta.values()} == {torch.float32}
    whole, less = (mean_gradient(learner_of(each), estimator, meta, episodes) for each in (network, rounded))
    together = mean_gradient(learner_of(rounded), estimator, meta, episodes, VMAP)
    assert 1e-4 < relative_error(less, whole) < 0.1
    assert relative_error(together, less) < 0.02


def test_a_rounded_product_is_that_of_rounded_operands() -> None:
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=rng) for shape in ((5, 8), (6, 8), (6,)))
    x.requires_grad_()
    layer = nn.Linear(8, 6)
    layer.load_state_dict({"weight": weight, "bias": bias})
    shared = nn.ModuleList([layer, nn.LayerNorm(6), nn.Embedding(6, 8)])
    shared[2].weight = layer.weight
    round_matrices(shared, torch.bfloat16)
    assert layer.weight is shared[2].weight and layer.bias.dtype == torch.float32
    y = frozen_linear(x, layer.weight, layer.bias)
    exact = x.detach().bfloat16().double() @ weight.bfloat16().double().T
    expected = exact.float().bfloat16().double() + bias.double()
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.detach().double(), expected, rtol=2**-8, atol=2**-8)
    [slope_of_x] = torch.autograd.grad(y.sum(), [x])
    torch.testing.assert_close(slope_of_x, weight.bfloat16().float().sum(0).expand(5, -1), rtol=0.01, atol=0.03)


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_fused_attention_runs(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("a fused kernel has no second derivative")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    network, inputs = transformer(family, kind_for(family, "lora") or {}), examples(family, 2)
    params = {name: tensor.requires_grad_() for name, tensor in perturbed(network.init(0)).items()}
    value = network.features(params, inputs, Frame()).square().sum()
    body = {name: tensor for name, tensor in params.items() if not name.startswith("head")}
    grads = torch.autograd.grad(value, list(body.values()), create_graph=True)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), list(body.values()))
    assert all(bool(grad.isfinite().all()) for grad in second)
    assert max(float(grad.abs().max()) for grad in second) > 0


@pytest.mark.parametrize(("family", "name", "part"), FAMILY_KINDS, ids=IDS)
def test_groups_divide_the_parameters(family: str, name: str, part: dict[str, Any]) -> None:
    network = transformer(family, part)
    params, groups = network.init(0), network.groups()
    blocks = [each for key, names in groups.items() if key.startswith("block") or key == "outside" for each in names]
    assert sorted(blocks) == sorted(groups["body"])
    kinds = {part.kind for part in network.parts}
    assert sorted(name for kind in kinds for name in groups[kind]) == sorted(groups["body"])
    assert sorted(groups["all"]) == sorted((*groups["body"], *groups["head"])) == sorted(params)
    assert not set(network.frozen) & set(params)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("bitfit", "full")])
def test_initial_values_depend_on_seed_and_name_alone(name: str) -> None:
    single, two = transformer("bert", KINDS[name]), transformer("bert", KINDS["bitfit"], KINDS[name])
    torch.manual_seed(0)
    params: Params = single.init(5)
    torch.manual_seed(1)
    again, beside, other = single.init(5), two.init(5), single.init(6)
    assert params.keys() == again.keys() < beside.keys()
    assert all(torch.equal(tensor, again[key]) and torch.equal(tensor, beside[key]) for key, tensor in params.items())
    assert not all(torch.equal(tensor, other[key]) for key, tensor in params.items())


def test_adapted_states_of_the_walk_are_those_of_the_equations() -> None:
    network = transformer("bert", KINDS["lora"])
    meta, task = perturbed(network.init(0)), single_tasks(tasks("bert"))[0]
    expected = {name: tensor.clone().requires_grad_() for name, tensor in meta.items()}
    inputs, labels = task.support.inputs, task.support.targets
    assert labels is not None
    expected = reference.adapted(reference_of(network), expected, inputs, labels, LR, STEPS, second_order=False)
    expected = {name: tensor.detach() for name, tensor in expected.items()}
    assert relative_error(walk(learner_of(network), meta, task.support)[-1].moved, expected) < 1e-12
