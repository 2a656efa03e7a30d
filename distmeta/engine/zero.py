"""Meta-parameters on the ranks of a worker, with DeepSpeed's optimizer of ZeRO stage 1 or 2.

    flat     = all meta-parameters end to end, padded to a multiple of the ranks          whole on every rank
    part r   = the r-th of `world` equal slices of it: state of the optimizer, and with stage 2 the sum of gradients
    step     : part r <- optimizer(part r, gradient of part r);  flat <- all parts, gathered

Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054. Deviation: DeepSpeed does not reduce the gradients. Its reduction
divides a sum whose order depends on the number of ranks. Here gradients of tasks are summed in the order of the tasks
(`distmeta.engine.ranks`), and DeepSpeed's optimizer is given this rank's part of the sum. Adam, AdamW and SGD treat
each entry by itself. So the ranks change no bit.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from distmeta.config import OuterConfig
from distmeta.core.errors import DistmetaError
from distmeta.core.ranks import Ranks, exchange
from distmeta.core.tensors import NORM_BLOCK, all_finite, global_norm, squared_sum
from distmeta.core.types import Params, Update
from distmeta.engine.ranks import PART
from distmeta.models.petl.partition import load_deepspeed
from distmeta.server import StepRecord
from distmeta.server.outer import build_optimizer, learning_rate

COUNT = "step"
"""Key of the one number that torch's optimizers keep for a whole tensor: how many steps they have made."""


class PartitionedWeights:
    """The meta-parameters on this rank. All ranks call each method at the same moment.

    Args:
        params: The meta-parameters of `version`, float32; copied.
        state: State of the optimizer, `<name>/<key>`; empty before the first step.
        version: Number of outer steps made.
        config: The outer section, with `zero`.
        total_steps: Steps of the whole run, for the schedule.
        group: The ranks. One that is alone makes a process group of its own.

    Attributes:
        params: The meta-parameters, changed in place by `step`.
        version: Number of outer steps made.

    Raises:
        UserError: DeepSpeed is not installed.
        PeerError: A rank is lost.
    """

    def __init__(
        self, params: Params, state: Params, version: int, config: OuterConfig, total_steps: int, group: Ranks
    ) -> None:
        self.version = version
        self._config, self._total_steps, self._group = config, total_steps, group
        if group.device == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        deepspeed = load_deepspeed("meta-parameters in a worker", "outer.zero", "null")
        _join_alone(group)
        # Flat, because DeepSpeed does not take numbers without a dimension.
        module = nn.ParameterList([nn.Parameter(tensor.detach().clone().reshape(-1)) for tensor in params.values()])
        with _exchange("setting up the optimizer"):
            self._engine, zero, *_ = deepspeed.initialize(
                model=module,
                optimizer=build_optimizer(config, list(module)),
                config={
                    "train_micro_batch_size_per_gpu": 1,
                    "gradient_clipping": 0.0,  # done here, by the norm of the whole
                    "zero_allow_untested_optimizer": True,
                    "zero_optimization": {"stage": config.zero, "compute_grad_norm": False},
                },
            )
        self._zero: Any = zero
        self.params: Params = {
            name: flat.data.view(tensor.shape) for (name, tensor), flat in zip(params.items(), module, strict=True)
        }
        [self._part] = self._zero.single_partition_of_fp32_groups
        self._load(state)

    @property
    def part_bytes(self) -> int:
        """Bytes of this rank's part of the optimizer's state."""
        return sum(tensor.nbytes for tensor in self._state().values())

    def divide(self, grad: Params) -> list[Tensor]:
        """Exchange a gradient with all ranks: this rank's part of the gradient of each rank, in their order.

        Raises:
            DistmetaError: A parameter has no gradient.
            PeerError: A rank is lost.
        """
        flat = self._flat(grad)
        if self._group.world == 1:
            return [flat]
        parts = torch.empty_like(flat)
        with _exchange("exchanging gradients"):
            dist.all_to_all_single(parts, flat)
        del flat
        return [part.clone() for part in torch.split(parts, self._part.numel())]  # so that each can be freed

    def step(self, total: Update) -> StepRecord | None:
        """Make the next version.

        Args:
            total: The sum of all tasks' updates: its gradient is whole, or `{PART: this rank's part}`.

        Returns:
            The record, the same on all ranks; None if the gradient is not finite. Then nothing is changed.
        """
        mean = {name: tensor / total.weight for name, tensor in total.grad.items()}
        norm = self._norm_of_parts(mean[PART]) if PART in mean else _norm(mean)
        if norm is None:
            return None
        limit = self._config.clip_norm
        clipped = limit is not None and norm > limit
        factor = limit / norm if limit is not None and clipped else 1.0
        rate = learning_rate(self._config, self._total_steps, self.version)
        for settings in self._zero.param_groups:
            settings["lr"] = rate
        part = mean[PART] if PART in mean else self._own(self._flat(mean))
        self._zero.averaged_gradients = {0: [part.to(self._part.device) * factor]}
        del mean, part
        with _exchange("gathering the weights of the next version"):
            self._zero.step()
        self.version += 1
        metrics = {name: value / total.weight for name, value in total.metrics.items()}
        return StepRecord(
            self.version, total.weight, metrics, {"grad_norm": norm, "clipped": float(clipped), "lr": rate}
        )

    def collect(self) -> tuple[Params, Params] | None:
        """Copies of the meta-parameters and of the optimizer's state `<name>/<key>`; None on ranks other than 0."""
        state: dict[str, Params] = {}
        for key, value in self._state().items():
            if key == COUNT:
                state[key] = {name: value.cpu().clone() for name in self.params}
            elif (flat := self._gather(value)) is not None:
                state[key] = self._named(flat.cpu())
        if self._group.rank != 0:
            return None
        # In the order of torch's optimizers: parameter by parameter.
        named = {f"{name}/{key}": tensors[name] for name in self.params for key, tensors in state.items()}
        return {name: tensor.detach().cpu().clone() for name, tensor in self.params.items()}, named

    def close(self) -> None:
        """Let go of the optimizer."""
        self._engine.destroy()

    def _state(self) -> Params:
        """This rank's part of the optimizer's state, by key."""
        state = self._zero.optimizer.state.get(self._part, {})
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}

    def _load(self, state: Params) -> None:
        """Take this rank's part of the optimizer's state."""
        own = self._zero.optimizer.state[self._part] if state else {}
        for key in dict.fromkeys(entry.rpartition("/")[2] for entry in state):
            values = {name: state[f"{name}/{key}"] for name in self.params}
            own[key] = next(iter(values.values())).clone() if key == COUNT else self._own(self._flat(values)).clone()

    def _own(self, flat: Tensor) -> Tensor:
        size = self._part.numel()
        return flat[self._group.rank * size :][:size]

    def _flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of all meta-parameters end to end, padded with zeros."""
        if missing := sorted(self.params.keys() - tensors.keys()):
            raise DistmetaError(f"outer.zero needs a signal for every meta-parameter, but '{missing[0]}' has none")
        device, entries = self._part.device, sum(param.numel() for param in self.params.values())
        flat = torch.zeros(self._part.numel() * self._group.world, device=device)
        torch.cat([tensors[name].reshape(-1).to(device) for name in self.params], out=flat[:entries])
        return flat

    def _named(self, flat: Tensor) -> Params:
        """The inverse of `_flat`: copies."""
        sizes = [param.numel() for param in self.params.values()]
        pieces = torch.split(flat[: sum(sizes)], sizes)
        named = zip(self.params.items(), pieces, strict=True)
        return {name: piece.view(param.shape).clone() for (name, param), piece in named}

    def _gather(self, part: Tensor) -> Tensor | None:
        """The parts of all ranks end to end, on the first rank."""
        if self._group.world == 1:
            return part
        is_first = self._group.rank == 0
        parts = [torch.empty_like(part) for _ in range(self._group.world)] if is_first else None
        with _exchange("gathering the optimizer's state"):
            dist.gather(part, parts)
        return None if parts is None else torch.cat(parts)

    def _norm_of_parts(self, part: Tensor) -> float | None:
        """The norm of the gradient of which this is a part, with the bits of `global_norm`; None if it is not finite.

        Blocks that lie in several parts are exchanged, of the others only the sums of squares.
        """
        first = self._group.rank * part.numel()
        sums: dict[tuple[str, int], float] = {}
        pieces: dict[tuple[str, int], Tensor] = {}
        for block, begin, end in self._blocks():
            low, high = max(begin, first) - first, min(end, first + part.numel()) - first
            if low < high:
                piece = part[low:high]
                if high - low == end - begin:
                    sums[block] = squared_sum(piece)
                else:
                    pieces[block] = piece
        ranks = self._group.gather((all_finite({PART: part}), sums, pieces))
        if not all(finite for finite, _, _ in ranks):
            return None
        known = {block: value for _, sums, _ in ranks for block, value in sums.items()}
        by_name: dict[str, float] = dict.fromkeys(sorted(self.params), 0.0)
        for block, _, _ in self._blocks():
            if block not in known:
                known[block] = squared_sum(torch.cat([pieces[block] for _, _, pieces in ranks if block in pieces]))
            by_name[block[0]] += known[block]
        total = 0.0
        for value in by_name.values():
            total += value
        return math.sqrt(total)

    def _blocks(self) -> Iterator[tuple[tuple[str, int], int, int]]:
        """Blocks of each meta-parameter, with their places in the whole."""
        begin = 0
        for name, param in self.params.items():
            end = begin + param.numel()
            for number, first in enumerate(range(begin, end, NORM_BLOCK)):
                yield (name, number), first, min(first + NORM_BLOCK, end)
            begin = end


def _norm(grad: Params) -> float | None:
    return global_norm(grad) if all_finite(grad) else None


@contextmanager
def _exchange(what: str) -> Iterator[None]:
    with exchange(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeepSpeed uses names that torch will drop
        yield


def _join_alone(group: Ranks) -> None:
    """Make a process group of this process, where there is none: DeepSpeed needs one, and keeps it to the end."""
    if not dist.is_initialized():
        assert group.world == 1
        backend = "gloo" if group.device == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
