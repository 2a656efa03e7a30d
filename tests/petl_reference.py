"""BERT with tunable parts, and MAML on it, by their equations: plain functions, one text and one task at a time.

Written from the papers, for comparison. Slow on purpose: loops over tasks, texts and heads, no masks (padding is cut
off), and no code of the package or of `transformers`.

Shapes: T tasks, N examples, L tokens, D features, H heads, V positions of a prefix, d = D / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Bert:
    """What its parameters do not tell.

    Attributes:
        weights: Its own weights, by the names of its state dict.
        blocks, heads: Numbers of blocks, and of heads in each.
        lora_scale: alpha / rank.
        adapter_scale: Factor of adapters.
        activation: That of adapters.
        prefix_length: Positions of a prefix that shares the softmax of the text; 0 for none, or a gated one.
        pad: Id of padding.
    """

    weights: Tensors
    blocks: int
    heads: int
    lora_scale: float = 1.0
    adapter_scale: float = 1.0
    activation: Callable[[Tensor], Tensor] = torch.relu
    prefix_length: int = 0
    pad: int = 0


def gelu(x: Tensor) -> Tensor:
    """X times the normal distribution function of x."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def features(net: Bert, tuned: Tensors, texts: Tensor) -> Tensor:
    """Mean of the last hidden states of each text: [N, L] ids -> [N, D]."""
    return torch.stack([hidden_states(net, tuned, text[text != net.pad]).mean(0) for text in texts])


def hidden_states(net: Bert, tuned: Tensors, ids: Tensor) -> Tensor:
    """[L] ids without padding -> [L, D]."""

    def own(name: str) -> Tensor:
        return tuned[name] if name in tuned else net.weights[name]

    words, places = own("embeddings.word_embeddings.weight"), own("embeddings.position_embeddings.weight")
    rows = [
        words[int(token)] + places[net.prefix_length + place] + own("embeddings.token_type_embeddings.weight")[0]
        for place, token in enumerate(ids)
    ]
    x = _norm(own, "embeddings.LayerNorm", torch.stack(rows))
    for block in range(net.blocks):
        name = f"encoder.layer.{block}"
        out = f"{name}.attention.output.dense"
        y = _linear(net, tuned, out, _attention(net, tuned, block, x))
        x = _norm(own, f"{name}.attention.output.LayerNorm", _adapted(net, tuned, out, x, y) + x)
        out = f"{name}.output.dense"
        y = _linear(net, tuned, out, gelu(_linear(net, tuned, f"{name}.intermediate.dense", x)))
        x = _norm(own, f"{name}.output.LayerNorm", _adapted(net, tuned, out, x, y) + x)
    return x


def _attention(net: Bert, tuned: Tensors, block: int, x: Tensor) -> Tensor:
    name = f"encoder.layer.{block}.attention.self"
    queries, keys, values = (_linear(net, tuned, f"{name}.{each}", x) for each in ("query", "key", "value"))
    prefix = _prefix(net, tuned, block)
    size = x.shape[1] // net.heads
    outputs = []
    for head in range(net.heads):
        part = slice(head * size, (head + 1) * size)
        q, k, v = queries[:, part], keys[:, part], values[:, part]
        gate = tuned.get(f"prefix.{block}.gate")
        if prefix is not None and gate is None:
            k, v = torch.cat((prefix[0][:, head], k)), torch.cat((prefix[1][:, head], v))
        output = _weighted(q, k, v)
        if prefix is not None and gate is not None:
            output = output + torch.tanh(gate[head]) * _weighted(q, prefix[0][:, head], prefix[1][:, head])
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def _weighted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.exp(q @ k.T / math.sqrt(q.shape[1]))
    return (scores / scores.sum(1, keepdim=True)) @ v


def _prefix(net: Bert, tuned: Tensors, block: int) -> tuple[Tensor, Tensor] | None:
    """Keys and values [V, H, d] of a block."""
    if f"prefix.{block}.keys" in tuned:
        return tuned[f"prefix.{block}.keys"], tuned[f"prefix.{block}.values"]
    if "prefix.embedding" not in tuned:
        return None
    hidden = torch.tanh(tuned["prefix.embedding"] @ tuned["prefix.down.weight"].T + tuned["prefix.down.bias"])
    width = tuned["prefix.embedding"].shape[1]
    rows = [slice((2 * block + each) * width, (2 * block + each + 1) * width) for each in (0, 1)]
    made = [hidden @ tuned["prefix.up.weight"][row].T + tuned["prefix.up.bias"][row] for row in rows]
    return made[0].unflatten(1, (net.heads, -1)), made[1].unflatten(1, (net.heads, -1))


def _linear(net: Bert, tuned: Tensors, name: str, x: Tensor) -> Tensor:
    """A linear layer with LoRA and IA3."""
    x = x * tuned[f"{name}.ia3_input"] if f"{name}.ia3_input" in tuned else x
    weight, bias = (tuned.get(f"{name}.{each}", net.weights[f"{name}.{each}"]) for each in ("weight", "bias"))
    if f"{name}.lora_A" in tuned:
        weight = weight + net.lora_scale * (tuned[f"{name}.lora_B"] @ tuned[f"{name}.lora_A"])
    y = x @ weight.T + bias
    return y * tuned[f"{name}.ia3"] if f"{name}.ia3" in tuned else y


def _adapted(net: Bert, tuned: Tensors, out: str, x: Tensor, y: Tensor) -> Tensor:
    """The output y of a part of a block that began with x, with its adapters."""
    for form, taken in (("sequential", y), ("parallel", x)):
        name = f"{out}.{form}"
        if f"{name}.down.weight" in tuned:
            hidden = net.activation(taken @ tuned[f"{name}.down.weight"].T + tuned[f"{name}.down.bias"])
            y = y + net.adapter_scale * (hidden @ tuned[f"{name}.up.weight"].T + tuned[f"{name}.up.bias"])
    return y


def _norm(own: Callable[[str], Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-12) * own(f"{name}.weight") + own(f"{name}.bias")


def loss(net: Bert, params: Tensors, texts: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the head on the features."""
    logits = features(net, params, texts) @ params["head.weight"].T + params["head.bias"]
    shares = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    return -torch.stack([row[int(label)] for row, label in zip(shares, labels, strict=True)]).mean()


def adapted(
    net: Bert, meta: Tensors, texts: Tensor, labels: Tensor, lr: float, steps: int, *, second_order: bool
) -> dict[str, Tensor]:
    """Parameters after some steps of gradient descent, as functions of those before."""
    fast = dict(meta)
    for _ in range(steps):
        grads = torch.autograd.grad(
            loss(net, fast, texts, labels), list(fast.values()), create_graph=second_order, allow_unused=True
        )
        fast = {
            name: tensor if grad is None else tensor - lr * grad
            for (name, tensor), grad in zip(fast.items(), grads, strict=True)
        }
    return fast


def meta_gradient(
    net: Bert,
    params: Tensors,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
    lr: float,
    steps: int,
    *,
    second_order: bool,
) -> dict[str, Tensor]:
    """Mean over tasks of MAML's gradient. Texts [T, N, L], labels [T, N]."""
    meta = {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}
    total = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    for task in range(len(support[0])):
        fast = adapted(net, meta, support[0][task], support[1][task], lr, steps, second_order=second_order)
        value = loss(net, fast, query[0][task], query[1][task])
        grads = torch.autograd.grad(value, list(meta.values()), allow_unused=True)
        for (name, tensor), grad in zip(total.items(), grads, strict=True):
            total[name] = tensor if grad is None else tensor + grad
    return {name: tensor / len(support[0]) for name, tensor in total.items()}
