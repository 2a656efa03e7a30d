"""Outer gradient by antithetic evolution strategies: the outer loss at perturbed meta-parameters, no derivative of it.

    e ~ N(0, 1)           d = (L(meta + std e) - L(meta - std e)) / (2 std)           signal = d e

is an unbiased estimate of the gradient of the smoothed loss E[L(meta + std e)] (Salimans et al. 2017, arXiv
1703.03864). With windows, L is the loss within one window of inner steps, and the perturbations of a task differ from
window to window:

    truncated ES    both sides of each window start from the state of unperturbed meta-parameters: biased, as what a
                    perturbation does beyond its window is not seen
    PES             both sides go on from their own state, and the difference counts for the sum of all perturbations of
                    the task so far: signal = d (e_0 + ... + e_w), unbiased for the loss of all windows
                    (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835)

Every task has perturbations of its own: the signals of T tasks are those of T antithetic pairs. They are hashes of its
seed and the number of the window, so that nothing of them is sent: not from worker to driver, nor in the carry, where
PES has the states of both sides alone.

Shapes: T tasks, S sides (perturbed up and down; in truncated ES with windows, unperturbed as well), N entries of all
meta-parameters.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from distmeta.config.estimators import EvolutionConfig
from distmeta.core import seeding
from distmeta.core.types import Episode, Params
from distmeta.methods.estimators.base import Estimate, Estimator, Moment, Scores, State, TaskOps
from distmeta.methods.estimators.windows import Window, carry_of, is_continued, state_of, tensors_of, window_of
from distmeta.methods.terms import Metrics

_UP, _DOWN, _CENTRE = range(3)


class Evolution(Estimator):
    """Differences between perturbed meta-parameters, summed over the tasks.

    The metrics are means over the sides of a pair; in truncated ES with windows, those of the unperturbed side.
    """

    reads_moment = True

    def __init__(self, config: EvolutionConfig) -> None:
        self._config = config
        follows_centre = config.window is not None and not config.persistent
        self._signs = (1.0, -1.0, 0.0) if follows_centre else (1.0, -1.0)

    @override
    def form(self, moment: Moment) -> Hashable:
        return is_continued(moment)

    @override
    def estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        with torch.no_grad():
            return self._estimate(ops, meta, episodes, moment)

    def _estimate(self, ops: TaskOps, meta: Params, episodes: Episode, moment: Moment) -> Estimate:
        count, sides = episodes.num_tasks, len(self._signs)
        window = window_of(moment, ops.num_steps(episodes), self._config.window)
        drawn = [self._noise(ops, meta, moment, index) for index in range(window.number + 1)]
        own = {name: self._sides(tensor, drawn[-1].get(name), count) for name, tensor in meta.items()}
        tasks, each = episodes.select(list(range(count)) * sides), ops.apart()
        state = state_of(each, own, tasks, [self._spread(tensor) for tensor in window.tensors])
        losses, scores, state = self._run(each, own, tasks, state, window)
        slopes = (losses[_UP] - losses[_DOWN]) / (2 * self._config.std)
        counted = drawn if self._config.persistent else drawn[-1:]
        grad = {name: _weighted(slopes, [noise[name] for noise in counted]) for name in drawn[-1]}
        metrics = {name: self._summary(self._by_side(values)) for name, values in scores.metrics.items()}
        metrics["loss"] = self._summary(losses)
        buffers = {name: self._summary(self._by_side(values)) for name, values in scores.buffers.items()}
        carry: Params = {}
        if self._config.window is not None:
            carry = carry_of(moment, window, [self._gathered(tensor) for tensor in tensors_of(state)])
        return Estimate(grad, metrics, buffers, carry)

    def _noise(self, ops: TaskOps, meta: Params, moment: Moment, index: int) -> Params:
        """Perturbations [T, ...] of standard deviation 1 by name, of the window of this number."""
        assert moment.seeds is not None, "perturbations are drawn by the seeds of tasks"
        like = {name: tensor for name, tensor in meta.items() if name not in ops.buffers}
        sizes = [tensor.numel() for tensor in like.values()]
        drawn = torch.from_numpy(seeding.normal(moment.seeds.cpu().numpy(), f"perturbation {index}", sum(sizes)))
        parts = zip(like.items(), torch.split(drawn, sizes, 1), strict=True)
        return {name: part.to(tensor).reshape(-1, *tensor.shape) for (name, tensor), part in parts}

    def _sides(self, tensor: Tensor, noise: Tensor | None, count: int) -> Tensor:
        """A meta-parameter of all sides: [S * T, ...]; running statistics are not perturbed."""
        if noise is None:
            return tensor.expand(len(self._signs) * count, *tensor.shape)
        return torch.cat([tensor + sign * self._config.std * noise for sign in self._signs])

    def _spread(self, tensor: Tensor) -> Tensor:
        """A carried tensor, [T, 2, ...] of both sides or [T, ...] of the centre, for all sides: [S * T, ...]."""
        if self._config.persistent:
            return tensor.transpose(0, 1).flatten(0, 1)
        return torch.cat([tensor] * len(self._signs))

    def _gathered(self, tensor: Tensor) -> Tensor:
        """What `_spread` takes, from a tensor of all sides."""
        sides = self._by_side(tensor)
        return sides.transpose(0, 1).contiguous() if self._config.persistent else sides[_CENTRE].clone()

    def _by_side(self, tensor: Tensor) -> Tensor:
        """[S * T, ...] -> [S, T, ...]."""
        sides = len(self._signs)
        return tensor.reshape(sides, len(tensor) // sides, *tensor.shape[1:])

    def _summary(self, sides: Tensor) -> Tensor:
        """What is reported [T] of values [S, T, ...]."""
        return sides[_CENTRE] if len(sides) > _CENTRE else sides.mean(0)

    def _run(
        self, ops: TaskOps, meta: Params, tasks: Episode, state: State, window: Window
    ) -> tuple[Tensor, Scores, State]:
        """Outer losses [S, T] within the window, the last scores, and the state after it."""
        total: Tensor | None = None
        scores: Scores | None = None
        at_end = bool({"last", "meta"} & frozenset(ops.places))
        for visit in ops.walk(meta, tasks, state=state, first=window.first, last=window.last):
            state = visit.state
            if "each" in ops.places and visit.k > window.first:
                scores = ops.score(meta, state, tasks, "each")
                total = _added(total, scores.metrics)
        if at_end:
            scores = ops.score(meta, state, tasks)
            total = _added(total, scores.metrics)
        assert scores is not None and total is not None, "there is a term"
        return self._by_side(total), scores, state


def _weighted(slopes: Tensor, noises: Sequence[Tensor]) -> Tensor:
    """Sum over the tasks of slopes [T] times the sum of perturbations [T, ...]."""
    total = torch.stack(list(noises)).sum(0)
    return (slopes @ total.flatten(1)).reshape(total.shape[1:])


def _added(total: Tensor | None, metrics: Metrics) -> Tensor:
    return metrics["loss"] if total is None else total + metrics["loss"]
