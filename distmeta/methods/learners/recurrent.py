"""The cell of the recurrent networks that learners have."""

from __future__ import annotations

import torch
from torch import Tensor


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Step of an LSTM (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    Args:
        gates: [..., 4 H] sums at the input gate, the forget gate, the candidate and the output gate.
        cell: [..., H] cell before the step.

    Returns:
        The hidden state and the cell after the step, [..., H] each.
    """
    enter, forget, candidate, leave = gates.chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(candidate)
    return torch.sigmoid(leave) * torch.tanh(cell), cell
