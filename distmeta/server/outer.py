"""The outer optimizer: a torch optimizer over a flat mapping of tensors, with schedule, clipping and averaging.

    g   <- g * min(1, clip_norm / |g|)
    p   <- optimizer(p, g, rate(t))
    avg <- d_t * avg + (1 - d_t) * (p_0 + interpolation * (p - p_0)),    d_t = min(average, (1 + t) / (10 + t))

`t` is the number of earlier updates. The average is that of Polyak & Juditsky (1992, "Acceleration of stochastic
approximation by averaging") with exponential weights. Its decay starts at 0.1 and grows to `average`: that removes the
random initial parameters from it quickly, and makes a bias correction unnecessary. An interpolation of 1 averages the
parameters themselves; below 1, a part of the initial ones, p_0, is kept (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from distmeta.config.outer import OuterConfig
from distmeta.core.errors import UserError, nearest
from distmeta.core.tensors import below, cloned, global_norm
from distmeta.core.types import Params

State = dict[str, Tensor | bool | int | float | str | None]
"""Flat state: tensors, which checkpoints write to a safetensors file, and scalars, which they write to a JSON file."""

PARAMS = "params/"
"""Prefix of the meta-parameters in a state."""
AVERAGE = "average/"
"""Prefix of the averaged meta-parameters in a state."""
BUFFERS = "buffers/"
"""Prefix of the running statistics in a state."""
OPTIMIZER = "optimizer/"
"""Prefix of the optimizer's own state: `optimizer/<name>/<key>`."""

_REFUSED = {
    "LBFGS": "needs to evaluate the loss again within its step, which a parameter server cannot do",
    "SparseAdam": "takes sparse gradients only, and outer gradients are dense",
}
# `lr` has a field of its own; the others are for optimizer steps inside CUDA graphs or autograd graphs.
_NOT_OPTIONS = {"self", "params", "lr", "capturable", "differentiable"}


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """The supported optimizers of `torch.optim`, by class name."""
    return {
        name: value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and name not in _REFUSED
    }


def check_optimizer(config: OuterConfig) -> None:
    """Check the optimizer's name and options; needs no parameters.

    Raises:
        UserError: The optimizer is unknown or unsupported, or an option is unknown or has an invalid value.
    """
    name, supported = config.optimizer, optimizers()
    if name in _REFUSED:
        raise UserError(f"{name} {_REFUSED[name]}", where="outer.optimizer", allowed=nearest(name, supported))
    if name not in supported:
        what = f"torch.optim has no optimizer '{name}'"
        raise UserError(what, where="outer.optimizer", allowed=nearest(name, supported))
    options = set(inspect.signature(supported[name]).parameters) - _NOT_OPTIONS
    for option in config.options:
        if option == "lr":
            raise UserError("the rate has its own field", where="outer.options.lr", allowed="outer.lr")
        if option not in options:
            where = f"outer.options.{option}"
            raise UserError(f"{name} does not take '{option}'", where=where, allowed=nearest(option, options))
    scratch = torch.zeros(2, 2)
    scratch.grad = torch.ones(2, 2)
    build_optimizer(config, [scratch], trial=True)


def build_optimizer(config: OuterConfig, params: Iterable[Tensor], *, trial: bool = False) -> torch.optim.Optimizer:
    """Make the optimizer. A trial takes one step, because torch checks some options only then."""
    make: Callable[..., torch.optim.Optimizer] = optimizers()[config.optimizer]
    try:
        optimizer = make(params, lr=config.lr, **config.options)
        if trial:
            optimizer.step()
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(f"{config.optimizer} refuses: {error}", where="outer.options") from error
    return optimizer


def learning_rate(config: OuterConfig, total_steps: int, step: int) -> float:
    """The outer learning rate of a step.

    During warm-up the rate is `lr * (step + 1) / (warmup_steps + 1)`, so that no step has rate 0. Then it follows the
    schedule over the remaining steps; the step after the last one would have the final fraction.

    Args:
        config: The outer section.
        total_steps: Number of steps of the whole run.
        step: Index of the step, from 0.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    remaining = 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1.0 - config.final_lr_fraction) * remaining)


class OuterOptimizer:
    """Owns the meta-parameters, on the CPU, and updates them.

    Args:
        params: Initial meta-parameters of the run, also where it is resumed; copied.
        config: The outer section.
        total_steps: Number of steps of the whole run, for the schedule.

    Attributes:
        params: The meta-parameters, updated in place by `step`.
        average: What is evaluated: their moving average, interpolated; None for the meta-parameters themselves.
        num_steps: Number of updates so far.

    Raises:
        UserError: The optimizer or an option is invalid (see `check_optimizer`), or does not support these parameters.
    """

    def __init__(self, params: Mapping[str, Tensor], config: OuterConfig, total_steps: int) -> None:
        check_optimizer(config)
        self.params: Params = {name: tensor.detach().cpu().clone() for name, tensor in params.items()}
        self.average: Params | None = cloned(self.params) if config.averages else None
        self._start: Params = cloned(self.params) if config.interpolation < 1.0 else {}
        self.num_steps = 0
        self._config = config
        self._total_steps = total_steps
        self._optimizer = build_optimizer(config, self.params.values())

    def rate(self, step: int) -> float:
        """The learning rate of the step with index `step`."""
        return learning_rate(self._config, self._total_steps, step)

    def step(self, grad: Mapping[str, Tensor]) -> dict[str, float]:
        """Make one update. Parameters that are missing from `grad` stay as they are.

        Args:
            grad: The outer gradient, by parameter name; not changed.

        Returns:
            Metrics: `grad_norm` before clipping, `clipped` (0 or 1), `lr`.
        """
        norm, limit = global_norm(grad), self._config.clip_norm
        clipped = limit is not None and norm > limit
        factor = limit / norm if limit is not None and clipped else 1.0
        rate = self.rate(self.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for name, tensor in grad.items():
            # The product is a copy: some optimizers change the gradient in place (SGD with nesterov).
            self.params[name].grad = tensor.detach() * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            decay = min(self._config.average, (1 + self.num_steps) / (10 + self.num_steps))
            for name, tensor in self.average.items():
                tensor.lerp_(self._interpolated(name), 1.0 - decay)
        self.num_steps += 1
        return {"grad_norm": norm, "clipped": float(clipped), "lr": rate}

    def _interpolated(self, name: str) -> Tensor:
        if not self._start:
            return self.params[name]
        return torch.lerp(self._start[name], self.params[name], self._config.interpolation)

    def state_dict(self) -> State:
        """A copy of everything that the next update depends on.

        Returns:
            Tensors `params/<name>`, `average/<name>`, `optimizer/<name>/<key>`; scalars `optimizer`, `num_steps`.
        """
        state: State = {"optimizer": self._config.optimizer, "num_steps": self.num_steps}
        for name, param in self.params.items():
            state[PARAMS + name] = param.clone()
            for key, value in self._optimizer.state.get(param, {}).items():
                state[f"{OPTIMIZER}{name}/{key}"] = value.clone() if isinstance(value, Tensor) else value
        for name, tensor in (self.average or {}).items():
            state[AVERAGE + name] = tensor.clone()
        return state

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state. The state is checked before anything is changed.

        Raises:
            UserError: The state belongs to other parameters or another optimizer, or lacks the average.
        """
        check_state(state, self._config, self.params)
        params = copied(state, PARAMS, self.params)
        average = None if self.average is None else copied(state, AVERAGE, self.average)
        with torch.no_grad():
            for name, tensor in params.items():
                self.params[name].copy_(tensor)
        self.average, self.num_steps = average, cast(int, state["num_steps"])
        # Not torch's load_state_dict: it casts state tensors to the type of the parameters, which changes bits.
        self._optimizer.state.clear()
        for full_name, value in state.items():
            if full_name.startswith(OPTIMIZER):
                name, key = full_name.removeprefix(OPTIMIZER).rsplit("/", 1)
                copy = value.detach().cpu().clone() if isinstance(value, Tensor) else value
                self._optimizer.state[self.params[name]][key] = copy


def check_state(state: Mapping[str, object], config: OuterConfig, params: Mapping[str, Tensor]) -> None:
    """Check that the state of an `OuterOptimizer` fits parameters and configuration.

    Raises:
        UserError: It does not.
    """
    saved = state.get("optimizer")
    if saved != config.optimizer:
        what = f"the checkpoint's optimizer is {saved}, that of the configuration {config.optimizer}"
        raise UserError(what, where="outer.optimizer", allowed=str(saved))
    num_steps = state.get("num_steps")
    if not isinstance(num_steps, int):
        raise UserError(f"num_steps is {num_steps!r}", where="server state", allowed="a whole number")
    check_fits(state, PARAMS, params)
    if config.averages:
        check_fits(state, AVERAGE, params)
    for entry in state:
        if entry.startswith(OPTIMIZER) and entry.removeprefix(OPTIMIZER).rsplit("/", 1)[0] not in params:
            what = f"the checkpoint does not fit: '{entry}' belongs to no parameter"
            raise UserError(what, where="server state", allowed="a checkpoint of the same model and learner")
    for name, expected in _state_after_a_step(config, params).items():
        _check_entries(state, f"{OPTIMIZER}{name}/", expected, num_steps)


def check_fits(state: Mapping[str, object], prefix: str, like: Mapping[str, Tensor]) -> None:
    saved = below(state, prefix)
    if saved.keys() != like.keys():
        missing, extra = sorted(like.keys() - saved.keys()), sorted(saved.keys() - like.keys())
        what = f"the checkpoint does not fit: in {prefix}, {missing[:3]} are missing and {extra[:3]} unexpected"
        raise UserError(what, where="server state", allowed="a checkpoint of the same model, learner and outer.average")
    for name, tensor in like.items():
        value = saved[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            actual = _kind(value) if isinstance(value, Tensor) else repr(value)
            raise UserError(f"'{name}' is {actual} in the checkpoint", where="server state", allowed=_kind(tensor))


def _state_after_a_step(config: OuterConfig, params: Mapping[str, Tensor]) -> dict[str, dict[str, object]]:
    """What the optimizer keeps for each parameter, by name: keys, shapes and types."""
    copies = cloned(params)
    optimizer = build_optimizer(config, copies.values())
    for tensor in copies.values():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    return {name: dict(optimizer.state.get(tensor, {})) for name, tensor in copies.items()}


def _check_entries(state: Mapping[str, object], prefix: str, expected: Mapping[str, object], num_steps: int) -> None:
    """Check what an optimizer has kept for one parameter; there is nothing before the parameter's first update."""
    saved = below(state, prefix)
    if saved and saved.keys() != expected.keys():
        what = f"the checkpoint does not fit: '{prefix}' has {sorted(saved)}"
        raise UserError(what, where="server state", allowed=f"{sorted(expected)}, of the optimizer")
    for key, value in saved.items():
        actual, allowed = _kind(value), _kind(expected[key])
        if actual != allowed:
            what = f"'{prefix}{key}' is {actual} in the checkpoint"
            raise UserError(what, where="server state", allowed=allowed)
        if key == "step" and not 0 <= float(cast(Tensor, value)) <= num_steps:  # also refuses NaN
            what = f"'{prefix}{key}' is {float(cast(Tensor, value)):g} in the checkpoint"
            raise UserError(what, where="server state", allowed=f"0 to {num_steps}, the steps of the run")


def _kind(value: object) -> str:
    """Type and shape of an entry, for messages."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def copied(state: Mapping[str, object], prefix: str, like: Mapping[str, Tensor]) -> Params:
    return {name: cast(Tensor, state[prefix + name]).detach().cpu().clone() for name in like}
