"""An LSTM that reads the support set: learning as the dynamics of a recurrent network.

Hochreiter, Younger & Conwell 2001, *Learning to learn using gradient descent*; Santoro et al. 2016, *Meta-learning with
memory-augmented neural networks* (MANN, arXiv 1605.06065), whose order of examples and labels this is.

    state_t, out_t = lstm(state_{t-1}, [f(x_t), y_{t-1}])        t = 1 .. N, y_0 = 0: the label comes one step later
    predict(x)     = lstm(state_N, [f(x), y_N]).out              each query is read after the N support examples, alone

`out_t` predicts the label of example t before it was read: head `sequence`, for terms on role `support`. With such a
term every position of the sequence is scored, as in both papers; without, the queries alone. The support set is read
in the order in which the task draws it, which is random (a pure function of the task's seed), and predictions depend on
it. They do not depend on other queries, unless those of the network's features do (`distmeta.models.base`).

Classes are the positions of one-hot labels, and each has weights of its own: what is learned for one number of classes
is not defined for another one.

Deviations from Santoro et al.: a plain LSTM of one or more layers without the external memory; the features of the
backbone's body in place of pixels; a query is not followed by others. The forget gates begin with bias 1 (Jozefowicz et
al. 2015).

Shapes: B inputs, N support examples, D features, O outputs, H width, L layers.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config import LstmConfig
from distmeta.core.types import SUPPORT, Episode, Params
from distmeta.methods.learners.base import OwnHead
from distmeta.methods.learners.black_box import BlackBoxLearner, label_vectors, linear
from distmeta.methods.learners.recurrent import lstm_cell
from distmeta.models.base import HEAD, Backbone
from distmeta.models.heads import linear as linear_params
from distmeta.models.network import Network

SEQUENCE = "sequence"


class Memory(NamedTuple):
    """Adapted state.

    Attributes:
        hidden, cell: [L, H] state of the layers after the support set.
        label: [O] the last label, which has not been read yet.
        outputs: [N, O] predictions for the support examples, each before its label was read.
    """

    hidden: Tensor
    cell: Tensor
    label: Tensor
    outputs: Tensor


class LstmLearner(BlackBoxLearner):
    """Reads examples in order, each with the label of the one before.

    Args:
        config: Width and layers.
        backbone: The network; its heads are not used.
    """

    prefix = "lstm"
    own_heads = MappingProxyType({SEQUENCE: OwnHead(role=SUPPORT)})

    def __init__(self, config: LstmConfig, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._width = config.width
        self._layers = tuple(f"layer{layer}" for layer in range(1, config.layers + 1))

    @override
    def init_own(self, rng: torch.Generator, dtype: torch.dtype) -> Params:
        params, width, inputs = Params(), self._width, self.backbone.num_features + self.backbone.num_outputs
        for layer in self._layers:
            params |= linear_params(f"{layer}.input", inputs, 4 * width, rng, dtype)
            params[f"{layer}.hidden.weight"] = linear_params("hidden", width, 4 * width, rng, dtype)["hidden.weight"]
            params[f"{layer}.input.bias"][width : 2 * width] = 1
            inputs = width
        return params | linear_params("out", width, self.backbone.num_outputs, rng, dtype)

    @override
    def start(self, net: Network, meta: Params, task: Episode) -> Memory:
        """The state after the support set, and the predictions along it."""
        params, features = self.own(meta), net.features(meta, task.support.inputs)
        labels = label_vectors(task.support, self.backbone.num_outputs, features)
        x = torch.cat((features, torch.cat((torch.zeros_like(labels[:1]), labels[:-1]))), 1)
        hidden, cell = [], []
        for layer in self._layers:
            x, last = read(params, layer, x)
            hidden.append(x[-1])
            cell.append(last)
        return Memory(torch.stack(hidden), torch.stack(cell), labels[-1], linear(params, "out", x))

    @override
    def predict(
        self, net: Network, meta: Params, fast: Memory, task: Episode, inputs: Tensor, *, head: str = HEAD
    ) -> Tensor:
        """Outputs [B, O] after the whole support set; by head `sequence`, those [N, O] along it."""
        if head == SEQUENCE:
            return fast.outputs
        params, x = self.own(meta), net.features(meta, inputs, task.support.inputs)
        x = torch.cat((x, fast.label.expand(len(x), -1)), 1)
        for position, layer in enumerate(self._layers):
            from_hidden = fast.hidden[position] @ params[f"{layer}.hidden.weight"].T
            x, _ = lstm_cell(linear(params, f"{layer}.input", x) + from_hidden, fast.cell[position])
        return linear(params, "out", x)


def read(params: Params, layer: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Read inputs [N, _] in order, from a state of zeros: the hidden states [N, H] and the last cell [H]."""
    weight, gates = params[f"{layer}.hidden.weight"], linear(params, f"{layer}.input", inputs)
    hidden = cell = torch.zeros_like(gates[0, : weight.shape[1]])
    states = []
    for each in gates.unbind(0):
        hidden, cell = lstm_cell(each + weight @ hidden, cell)
        states.append(hidden)
    return torch.stack(states), cell
