"""The outer step: a torch optimizer over a flat mapping of tensors, with schedule, clipping and averaging.

    g   <- g * min(1, clip_norm / |g|)
    p   <- optimizer(p, g, rate(t))
    avg <- d_t * avg + (1 - d_t) * p,    d_t = min(average, (1 + t) / (10 + t))

`t` counts the updates made before this one. The average is that of Polyak & Juditsky (1992, "Acceleration of stochastic
approximation by averaging") with exponential weights. Its decay starts at 0.1 and grows to `average`, so that the first
parameters, which are random, do not linger in it and no bias correction is needed.
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
from distmeta.core.tensors import cloned, global_norm
from distmeta.core.types import Params

State = dict[str, Tensor | bool | int | float | str | None]
"""Flat state: tensors, which go to a safetensors file, and scalars, which go to a JSON file."""

PARAMS = "params/"
"""Prefix of the meta-parameters in a state."""
AVERAGE = "average/"
"""Prefix of the averaged meta-parameters in a state."""
_OPTIMIZER = "optimizer/"

_REFUSED = {
    "LBFGS": "needs to evaluate the loss again within its step, which a parameter server cannot",
    "SparseAdam": "takes sparse gradients only, and outer gradients are dense",
}
# `lr` has its own field; the others change how torch runs a step inside a graph, which the server never does.
_NOT_OPTIONS = {"self", "params", "lr", "capturable", "differentiable"}


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """The optimizers of `torch.optim` that can be used, by class name."""
    return {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
        and name not in _REFUSED
    }


def check_optimizer(config: OuterConfig) -> None:
    """Refuse an optimizer or options that cannot work, before there are any parameters.

    Raises:
        UserError: The name is unknown or refused, or an option is unknown or has an impossible value.
    """
    name, known = config.optimizer, optimizers()
    if name in _REFUSED:
        raise UserError(f"{name} {_REFUSED[name]}", where="outer.optimizer", allowed=nearest(name, known))
    if name not in known:
        raise UserError(f"torch.optim has no optimizer '{name}'", where="outer.optimizer", allowed=nearest(name, known))
    options = set(inspect.signature(known[name]).parameters) - _NOT_OPTIONS
    for option in config.options:
        if option == "lr":
            raise UserError("the rate has its own field", where="outer.options.lr", allowed="outer.lr")
        if option not in options:
            where = f"outer.options.{option}"
            raise UserError(f"{name} does not take '{option}'", where=where, allowed=nearest(option, options))
    scratch = torch.zeros(2, 2)
    scratch.grad = torch.ones(2, 2)
    _build(config, [scratch], trial=True)


def _build(config: OuterConfig, params: Iterable[Tensor], *, trial: bool = False) -> torch.optim.Optimizer:
    """Make the optimizer. A trial steps it once, since torch finds some impossible options only then."""
    make: Callable[..., torch.optim.Optimizer] = optimizers()[config.optimizer]
    try:
        optimizer = make(params, lr=config.lr, **config.options)
        if trial:
            optimizer.step()
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise UserError(f"{config.optimizer} refuses: {error}", where="outer.options") from error
    return optimizer


def learning_rate(config: OuterConfig, total_steps: int, step: int) -> float:
    """The outer rate of one step, from nothing but the config and the step's number.

    The rate rises as `(step + 1) / (warmup_steps + 1)`, so that no step is wasted at rate 0, then follows the schedule
    over the steps that remain; the final fraction is what a step after the last one would have.

    Args:
        config: The outer section.
        total_steps: Steps of the whole run.
        step: Updates made before this one, from 0.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    remaining = 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1.0 - config.final_lr_fraction) * remaining)


class OuterOptimizer:
    """Owns the meta-parameters (copies, on the CPU) and moves them.

    Args:
        params: Where to start; not touched.
        config: The outer section.
        total_steps: Steps of the whole run, for the schedule.

    Attributes:
        params: The meta-parameters, moved in place by `step`.
        average: Their average, or None where it is off.
        num_steps: Updates made so far.

    Raises:
        UserError: The optimizer or its options cannot work (see `check_optimizer`), or not with these parameters.
    """

    def __init__(self, params: Mapping[str, Tensor], config: OuterConfig, total_steps: int) -> None:
        check_optimizer(config)
        self.params: Params = {name: tensor.detach().cpu().clone() for name, tensor in params.items()}
        self.average: Params | None = cloned(self.params) if config.average else None
        self.num_steps = 0
        self._config = config
        self._total_steps = total_steps
        self._optimizer = _build(config, self.params.values())

    def rate(self, step: int) -> float:
        """The rate of the update that has `step` updates before it."""
        return learning_rate(self._config, self._total_steps, step)

    def step(self, grad: Mapping[str, Tensor]) -> dict[str, float]:
        """Make one update. Parameters that `grad` does not name are left alone.

        Args:
            grad: The outer gradient, shaped as the parameters; not touched.

        Returns:
            `grad_norm` before clipping, `clipped` (1 if it was), `lr`.
        """
        norm, limit = global_norm(grad), self._config.clip_norm
        clipped = limit is not None and norm > limit
        factor = limit / norm if limit is not None and clipped else 1.0
        rate = self.rate(self.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for name, tensor in grad.items():
            # Some optimizers write into the gradient (SGD's nesterov), so they get one of their own.
            self.params[name].grad = tensor.detach() * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            decay = min(self._config.average, (1 + self.num_steps) / (10 + self.num_steps))
            for name, tensor in self.average.items():
                tensor.lerp_(self.params[name], 1.0 - decay)
        self.num_steps += 1
        return {"grad_norm": norm, "clipped": float(clipped), "lr": rate}

    def state_dict(self) -> State:
        """Everything the next update depends on, copied.

        Returns:
            Tensors `params/<name>`, `average/<name>`, `optimizer/<name>/<key>`; scalars `optimizer`, `num_steps`.
        """
        state: State = {"optimizer": self._config.optimizer, "num_steps": self.num_steps}
        for name, param in self.params.items():
            state[PARAMS + name] = param.clone()
            for key, value in self._optimizer.state.get(param, {}).items():
                state[f"{_OPTIMIZER}{name}/{key}"] = value.clone() if isinstance(value, Tensor) else value
        for name, tensor in (self.average or {}).items():
            state[AVERAGE + name] = tensor.clone()
        return state

    def _check_state(self, state: Mapping[str, object]) -> None:
        saved = state.get("optimizer")
        if saved != self._config.optimizer:
            what = f"the checkpoint's optimizer is {saved}, the configuration's {self._config.optimizer}"
            raise UserError(what, where="outer.optimizer", allowed=str(saved))
        num_steps = state.get("num_steps")
        if not isinstance(num_steps, int):
            raise UserError(f"num_steps is {num_steps!r}", where="server state", allowed="a whole number")
        _check_fits(state, PARAMS, self.params)
        if self.average is not None:
            _check_fits(state, AVERAGE, self.params)
        for entry in state:
            if entry.startswith(_OPTIMIZER) and entry.removeprefix(_OPTIMIZER).rsplit("/", 1)[0] not in self.params:
                what = f"the checkpoint does not fit: '{entry}' is of no parameter"
                raise UserError(what, where="server state", allowed="a checkpoint of the same model and learner")

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a state; all of it is checked before anything is changed.

        Raises:
            UserError: The state is of other parameters, of another optimizer, or lacks the average.
        """
        self._check_state(state)
        params = _copied(state, PARAMS, self.params)
        average = None if self.average is None else _copied(state, AVERAGE, self.average)
        with torch.no_grad():
            for name, tensor in params.items():
                self.params[name].copy_(tensor)
        self.average, self.num_steps = average, cast(int, state["num_steps"])
        # Not through torch's load_state_dict: it casts state tensors to the parameters' type, which changes bits.
        self._optimizer.state.clear()
        for full_name, value in state.items():
            if full_name.startswith(_OPTIMIZER):
                name, key = full_name.removeprefix(_OPTIMIZER).rsplit("/", 1)
                copy = value.detach().cpu().clone() if isinstance(value, Tensor) else value
                self._optimizer.state[self.params[name]][key] = copy


def _check_fits(state: Mapping[str, object], prefix: str, like: Mapping[str, Tensor]) -> None:
    held = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if held.keys() != like.keys():
        missing, extra = sorted(like.keys() - held.keys()), sorted(held.keys() - like.keys())
        what = f"the checkpoint does not fit: {prefix} lacks {missing[:3]} and has {extra[:3]} too many"
        raise UserError(what, where="server state", allowed="a checkpoint of the same model, learner and outer.average")
    for name, tensor in like.items():
        value = held[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
            have = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            what = f"'{name}' is {have} in the checkpoint"
            raise UserError(what, where="server state", allowed=f"{tensor.dtype} {list(tensor.shape)}")


def _copied(state: Mapping[str, object], prefix: str, like: Mapping[str, Tensor]) -> Params:
    return {name: cast(Tensor, state[prefix + name]).detach().cpu().clone() for name in like}
