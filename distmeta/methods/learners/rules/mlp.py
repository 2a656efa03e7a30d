"""A small MLP for every parameter entry, with momenta as features: Metz et al. 2022, *Practical tradeoffs between
memory, compute, and performance in learned optimizers* (arXiv 2203.11860); Metz et al. 2019 (arXiv 1810.10180).

    m_d    <- d m_d + (1 - d) g  for each decay d;      v <- b v + (1 - b) g^2
    a_d    = m_d / sqrt(v)   with bias corrections
    x      = (w, g, m_d)  each divided by its root mean square over the tensor,  a_d,  time
    (z, s) = mlp(x)
    update = -scale * exp(exponent * s) * (z + nominal * a_d1)

Time is `tanh(k / t - 1)` for t = 1, 3, 10, ..., 10,000, and the share `2 k / K - 1` of the steps that are to be taken,
which VeLO and Celo read (Metz et al. 2022, arXiv 2211.09760; Moudgil et al. 2025, arXiv 2501.12670): within a known
horizon, the rate can fall. Beyond it the share is 1. With `nominal` the MLP corrects Adam (Harrison et al. 2022, arXiv
2209.11208), whose rate before training is `scale`.

Deviations from the `small_fc_mlp` of Metz et al.: no factored second moments (Adafactor); the share of steps; weights
of the last layer begin at a tenth of the usual size.

Shapes: P entries, D decays, F features of an entry, S scalars, H width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.optimizers import MlpRuleConfig
from distmeta.core.types import Params
from distmeta.methods.learners.black_box import init_layers, layers
from distmeta.methods.learners.rules.base import Slots, UpdateRule, rms_of_tensors, second_root
from distmeta.models.heads import linear as linear_params

TIMES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
_LAST = 0.1


class MlpRule(UpdateRule):
    """Slots: `momenta` [P, D] and `second` [P]. Scalars: bias corrections of the D momenta and of the squares, time."""

    def __init__(self, config: MlpRuleConfig) -> None:
        self._config = config
        self._num_decays = len(config.decays)

    @override
    def init(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        config, num_features = self._config, 2 + 2 * self._num_decays
        inputs = linear_params("input", num_features + len(TIMES) + 1, config.width, rng, dtype)
        weight = inputs.pop("input.weight")
        params = {"time.weight": weight[:, num_features:].clone(), "input.weight": weight[:, :num_features].clone()}
        params |= inputs | init_layers("hidden", (config.width,) * config.layers, rng, dtype)
        out = linear_params("out", config.width, 2, rng, dtype)
        return params | {name: _LAST * tensor for name, tensor in out.items()}

    @override
    def start(self, params: Tensor) -> Slots:
        momenta = params.new_zeros(*params.shape, self._num_decays)
        return {"momenta": momenta, "second": torch.zeros_like(params)}

    @override
    def scalars(self, k: int, steps: int) -> tuple[float, ...]:
        decays = (*self._config.decays, self._config.second_decay)
        time = (torch.tensor(k, dtype=torch.float64) / torch.tensor(TIMES, dtype=torch.float64) - 1).tanh().tolist()
        return (*(1 - decay ** (k + 1) for decay in decays), *time, min(2 * k / steps - 1, 1.0))

    @override
    def update(
        self, own: Params, slots: Slots, grad: Tensor, params: Tensor, scalars: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Slots]:
        config, num_decays = self._config, self._num_decays
        decays = grad.new_tensor(config.decays)
        momenta = decays * slots["momenta"] + (1 - decays) * grad[:, None]
        second = config.second_decay * slots["second"] + (1 - config.second_decay) * grad * grad
        root = second_root(second / scalars[num_decays])
        directions = momenta / scalars[:num_decays] / root[:, None]
        scaled = torch.cat((params[:, None], grad[:, None], momenta), 1)
        features = torch.cat((scaled / rms_of_tensors(scaled, sizes), directions), 1)
        out = self._mlp(own, features, scalars[num_decays + 1 :])
        direction = out[:, 0] + config.nominal * directions[:, 0]
        update = -config.scale * (config.exponent * out[:, 1]).exp() * direction
        return update, {"momenta": momenta, "second": second}

    def _mlp(self, own: Params, features: Tensor, time: Tensor) -> Tensor:
        """Direction and logarithm of its size [P, 2]; what time adds to the first layer is the same for all entries."""
        first = own["input.bias"] + own["time.weight"] @ time
        x = torch.relu(features @ own["input.weight"].T + first)
        if self._config.layers > 1:
            x = torch.relu(layers(own, "hidden", self._config.layers - 1, x))
        return x @ own["out.weight"].T + own["out.bias"]
