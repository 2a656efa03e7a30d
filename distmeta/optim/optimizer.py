"""A learned update rule as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.core.errors import UserError
from distmeta.core.types import Params
from distmeta.methods.learners.rules.base import UpdateRule

_STEP = "step"
_TYPES = (torch.float32, torch.float64)


class LearnedOptimizer(torch.optim.Optimizer):
    """Trains any parameters by an update rule; `distmeta.optim.load` makes the class of a checkpoint.

    Each parameter has its own state: the steps that it has taken, and what the rule remembers. The rule's own weights
    are those of the class, and no part of `state_dict()`.

    Args:
        params: Parameters of type float32 or float64, or groups of them.
        steps: Steps that will be taken, for rules that read the share of them; None takes those of the training.
        scale: Factor of the updates; groups may have their own.

    Attributes:
        rule: The update rule.
        weights: Its own parameters.
        trained_steps: Steps that it was trained for.

    Raises:
        UserError: `steps` or `scale` is not positive, or a parameter is of another type.
    """

    rule: ClassVar[UpdateRule]
    weights: ClassVar[Params]
    trained_steps: ClassVar[int]

    def __init__(self, params: Any, steps: int | None = None, scale: float = 1.0) -> None:
        steps = self.trained_steps if steps is None else steps
        if steps < 1:
            raise UserError(f"{steps} steps", where="steps", allowed="1 or more")
        if not scale > 0:
            raise UserError(f"scale {scale}", where="scale", allowed="a number above 0")
        super().__init__(params, {"steps": steps, "scale": scale})
        self._weights: dict[tuple[torch.dtype, torch.device], Params] = {}
        for group in self.param_groups:
            _check_types(group["params"])

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; parameters without a gradient stay as they are.

        Args:
            closure: Computes the loss again and returns it.

        Raises:
            UserError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        self._update(param, param.grad, group["steps"], group["scale"])
        return loss

    def _update(self, param: Tensor, grad: Tensor, steps: int, scale: float) -> None:
        if grad.is_sparse:
            raise UserError("a sparse gradient", where="step", allowed="dense gradients")
        values, state = param.flatten(), self.state[param]
        if not state:
            state |= {_STEP: 0, **self.rule.start(values)}
        slots = {name: value for name, value in state.items() if name != _STEP}
        scalars = values.new_tensor(self.rule.scalars(state[_STEP], steps))
        own = self._own(param)
        update, slots = self.rule.update(own, slots, grad.flatten(), values, scalars, (values.numel(),))
        param.add_(update.reshape(param.shape), alpha=scale)
        state |= {_STEP: state[_STEP] + 1, **slots}

    def _own(self, param: Tensor) -> Params:
        """The rule's parameters, of the type and on the device of a parameter."""
        key = (param.dtype, param.device)
        if key not in self._weights:
            self._weights[key] = {name: tensor.to(param.device, param.dtype) for name, tensor in self.weights.items()}
        return self._weights[key]


def _check_types(params: Iterable[Tensor]) -> None:
    for param in params:
        if param.dtype not in _TYPES:
            raise UserError(f"a parameter of {param.dtype}", where="params", allowed="float32, float64")
