"""Full-context embeddings of matching networks (Vinyals et al. 2016, arXiv 1606.04080, section 2.1.2, appendix A).

Support example i, of features s_i, by an LSTM that reads the support set forwards and one that reads it backwards:

    g_i = s_i + forward_i + backward_i

A query of features x, by an LSTM that reads the support set with attention, K times:

    h_0, c_0, r_0 = 0, 0, 0
    h, c_k = lstm(x, [h_{k-1}, r_{k-1}], c_{k-1});      h_k = h + x
    r_k    = sum_i  softmax_i(h_k . g_i) g_i;           f(x) = h_K

Both depend on the order of the support set, which tasks draw at random.

Shapes: B queries, N support examples, D features, K reading steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distmeta.core.seeding import mix
from distmeta.core.types import Params
from distmeta.methods.learners.recurrent import lstm_cell

FORWARD, BACKWARD, READ = "context.forward", "context.backward", "context.read"


class FullContext:
    """The embeddings as functions of meta-parameters `context.*`.

    Args:
        num_features: D.
        steps: K.
    """

    def __init__(self, num_features: int, steps: int) -> None:
        self._size, self._steps = num_features, steps

    def init(self, seed: int, dtype: torch.dtype) -> Params:
        """Weights of three LSTMs, uniform within +-1/sqrt(D), biases zero."""
        rng = torch.Generator().manual_seed(mix(seed, "context"))
        bound = 1 / math.sqrt(self._size)
        params: Params = {}
        for name, hidden in ((FORWARD, self._size), (BACKWARD, self._size), (READ, 2 * self._size)):
            for part, inputs in (("input", self._size), ("hidden", hidden)):
                weight = torch.rand(4 * self._size, inputs, generator=rng, dtype=torch.float64) * 2 - 1
                params[f"{name}.{part}"] = (weight * bound).to(dtype)
            params[f"{name}.bias"] = torch.zeros(4 * self._size, dtype=dtype)
        return params

    def of_support(self, params: Params, features: Tensor) -> Tensor:
        """Embeddings [N, D] of the support features [N, D]."""
        rows = list(features.unbind(0))
        forward = _outputs(params, FORWARD, rows)
        backward = _outputs(params, BACKWARD, rows[::-1])[::-1]
        return features + torch.stack(forward) + torch.stack(backward)

    def of_queries(self, params: Params, features: Tensor, support: Tensor) -> Tensor:
        """Embeddings [B, D] of the query features [B, D]; `support` are the embeddings [N, D]."""
        hidden = cell = read = torch.zeros_like(features)
        for _ in range(self._steps):
            hidden, cell = lstm(params, READ, features, torch.cat((hidden, read), 1), cell)
            hidden = hidden + features
            read = torch.softmax(hidden @ support.T, 1) @ support
        return hidden


def lstm(params: Params, name: str, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM.

    Args:
        params: Has `NAME.input` [4 D, _], `NAME.hidden` [4 D, _] and `NAME.bias` [4 D]: gates in the order input,
            forget, cell, output.
        name: See above.
        inputs: [B, _].
        hidden: [B, _] outputs of the step before, and what else they are joined with.
        cell: [B, D] cells after the step before.

    Returns:
        Outputs [B, D] and cells [B, D].
    """
    gates = inputs @ params[f"{name}.input"].T + hidden @ params[f"{name}.hidden"].T + params[f"{name}.bias"]
    return lstm_cell(gates, cell)


def _outputs(params: Params, name: str, rows: list[Tensor]) -> list[Tensor]:
    """Outputs [D] of an LSTM that reads rows [D] in order."""
    hidden = cell = torch.zeros_like(rows[0][None])
    outputs = []
    for row in rows:
        hidden, cell = lstm(params, name, row[None], hidden, cell)
        outputs.append(hidden[0])
    return outputs
