"""A transformer that learns in context: the support set is its input, and nothing but activations adapts.

Garg et al. 2022, *What can transformers learn in-context?* (arXiv 2208.01066); Kirsch et al. 2022, *General-purpose
in-context learning by meta-learning transformers* (arXiv 2212.04458); the arrangement of tokens is that of prior-data
fitted networks (Mueller et al. 2022, arXiv 2112.10510; TabPFN, Hollmann et al. 2023, arXiv 2207.01848).

    support token  = A f(x_i) + E y_i            query token = A f(x) + u
    block          z <- z + attention(norm(z) -> norm(support tokens));     z <- z + mlp(norm(z))
    predict(x)     = out(norm(z of the query))

All tokens attend to the support tokens alone, and there are no positions: predictions depend neither on the order of
the support set nor on other queries, unless those of the network's features do (`distmeta.models.base`). What queries
need of the support set are the keys and values of each block: these are the adapted state. Each class has a label
vector and an output of its own: predictions depend on which class has which number, and the number of classes is fixed.

Deviations from these papers: the features of the backbone's body in place of raw inputs; a set of examples as in
prior-data fitted networks, where Garg et al. and Kirsch et al. read a sequence with causal attention; a query token
does not attend to itself, its residual path carries it; layers of the sizes of a small problem.

Shapes: B inputs, N support examples, D features, O outputs, W width, L blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from distmeta.config import InContextConfig
from distmeta.core.types import Episode, Params
from distmeta.methods.learners.black_box import BlackBoxLearner, init_layers, label_vectors, linear
from distmeta.models.base import HEAD, Backbone
from distmeta.models.heads import linear as linear_params
from distmeta.models.network import Network

EPSILON = 1e-5


class Context(NamedTuple):
    """Adapted state: keys and values of the support tokens in each block, [L, N, W] each."""

    keys: Tensor
    values: Tensor


class InContextLearner(BlackBoxLearner):
    """Attends from queries to labelled support examples.

    Args:
        config: Sizes of the transformer.
        backbone: The network; its heads are not used.
    """

    prefix = "in_context"

    def __init__(self, config: InContextConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._width, self._heads = config.width, config.attention_heads
        self._hidden = config.hidden or 4 * config.width
        self._blocks = tuple(f"block{block}" for block in range(1, config.layers + 1))

    @override
    def init_own(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        width, outputs = self._width, self.backbone.num_outputs
        params = linear_params("input", self.backbone.num_features, width, rng, dtype)
        params["label.weight"] = linear_params("label", outputs, width, rng, dtype)["label.weight"]
        params["unlabelled"] = torch.zeros(width, dtype=dtype)
        for block in self._blocks:
            params |= _init_norm(f"{block}.norm1", width, dtype)
            for part in ("query", "key", "value", "out"):
                params |= linear_params(f"{block}.attention.{part}", width, width, rng, dtype)
            params |= _init_norm(f"{block}.norm2", width, dtype)
            params |= init_layers(f"{block}.mlp", (width, self._hidden, width), rng, dtype)
        return params | _init_norm("norm", width, dtype) | linear_params("out", width, outputs, rng, dtype)

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Context:
        """Keys and values of the support tokens, which attend to each other."""
        params, features = self.own(meta), net.features(meta, task.support.inputs)
        labels = label_vectors(task.support, self.backbone.num_outputs, features)
        tokens = linear(params, "input", features) + labels @ params["label.weight"].T
        keys, values = [], []
        for block in self._blocks:
            normed = _norm(params, f"{block}.norm1", tokens)
            keys.append(linear(params, f"{block}.attention.key", normed))
            values.append(linear(params, f"{block}.attention.value", normed))
            if block != self._blocks[-1]:
                tokens = self._block(params, block, tokens, keys[-1], values[-1])
        return Context(torch.stack(keys), torch.stack(values))

    @override
    def predict(
        self, net: Network, meta: Params, fast: Context, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Outputs [B, O]."""
        params = self.own(meta)
        tokens = linear(params, "input", net.features(meta, inputs, task.support.inputs)) + params["unlabelled"]
        for position, block in enumerate(self._blocks):
            tokens = self._block(params, block, tokens, fast.keys[position], fast.values[position])
        return linear(params, "out", _norm(params, "norm", tokens))

    def _block(self, params: Params, block: str, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens [B, W] after a block, with keys and values [N, W] of the support tokens."""
        queries = linear(params, f"{block}.attention.query", _norm(params, f"{block}.norm1", tokens))
        read = attention(queries, keys, values, self._heads)
        tokens = tokens + linear(params, f"{block}.attention.out", read)
        hidden = F.gelu(linear(params, f"{block}.mlp.1", _norm(params, f"{block}.norm2", tokens)))
        return tokens + linear(params, f"{block}.mlp.2", hidden)


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention of several heads (Vaswani et al. 2017).

    Args:
        queries: [B, W].
        keys: [N, W].
        values: [N, W].
        heads: Into how many parts of equal size W is cut.

    Returns:
        [B, W].
    """
    q, k, v = (x.reshape(len(x), heads, -1).transpose(0, 1) for x in (queries, keys, values))
    weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, -1)
    return (weights @ v).transpose(0, 1).flatten(1)


def _init_norm(name: str, width: int, dtype: torch.dtype) -> Params:
    return {f"{name}.weight": torch.ones(width, dtype=dtype), f"{name}.bias": torch.zeros(width, dtype=dtype)}


def _norm(params: Params, name: str, x: Tensor) -> Tensor:
    """Layer norm (Ba et al. 2016) of [B, W]; torch's, which is exact under `vmap` without weights."""
    return F.layer_norm(x, x.shape[-1:], None, None, EPSILON) * params[f"{name}.weight"] + params[f"{name}.bias"]
