"""The sums of a shard: outputs of layers for the queries of its tasks, in several views.

A view is a network with weights of its own, on the same queries. With one set of meta-parameters there are two: the
adapted learner before its first inner step and after its last. With several, each is a view as it is, without
adaptation.

A sample is a row of X in `distmeta.analysis.similarity`. In feature maps [B, C, H, W] channels are neurons, and every
position of every query is a sample, as Raghu et al. 2020 (after Raghu et al. 2017, arXiv 1706.05806) count them: a
channel computes the same function at every position, and C is small enough for p^2 sums, where C H W is not. Sequences
[B, L, D] have D neurons and samples B L.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distmeta.analysis.similarity import LayerSums, sums_of
from distmeta.core.types import QUERY, Episode, Params
from distmeta.engine.chunks import cut
from distmeta.engine.engine import one_by_one
from distmeta.engine.precision import Matmul, library_precision, products
from distmeta.methods.learners.base import Learner
from distmeta.models.base import HEAD
from distmeta.models.network import Network

OUTPUTS = "outputs"
"""Name of the outputs of the learner, beside those of layers."""
MAX_NEURONS = 4096
"""Wider layers are left out: their sums have p^2 numbers."""
_SEPARATOR = "/"


@dataclass(frozen=True)
class ShardSums:
    """Sums of a shard.

    Attributes:
        layers: By name of the layer, in the order of the network.
        left_out: Names of layers that are too wide.
    """

    layers: dict[str, LayerSums]
    left_out: tuple[str, ...]

    def __add__(self, other: ShardSums) -> ShardSums:
        return ShardSums({name: sums + other.layers[name] for name, sums in self.layers.items()}, self.left_out)


def pack(others: Sequence[Params]) -> Params:
    """Parameters of further views under one mapping, to be sent with a snapshot."""
    return {f"{view}{_SEPARATOR}{name}": each for view, params in enumerate(others) for name, each in params.items()}


def unpack(packed: Params) -> list[Params]:
    """Undo `pack`."""
    views: dict[int, Params] = {}
    for key, tensor in packed.items():
        view, _, name = key.partition(_SEPARATOR)
        views.setdefault(int(view), {})[name] = tensor
    return [views[view] for view in sorted(views)]


def sums_of_shard(
    learner: Learner, meta: Params, others: Params, episodes: Episode, matmul: Matmul, head: str = HEAD
) -> ShardSums:
    """Compare views on the queries of a shard.

    Args:
        learner: The learner of evaluation.
        meta: Meta-parameters and running statistics.
        others: Those of further views (`pack`); if there are none, the learner before and after adaptation is compared.
        episodes: T tasks.
        matmul: Precision of products in the networks.
        head: Head that evaluation tasks are scored through.

    Returns:
        Sums over the tasks in their order.
    """
    views, total = [meta, *unpack(others)], None
    with library_precision(matmul), products(matmul):
        for task in (chunk.episodes for chunk in cut(episodes, 1)):
            outputs = _as_they_are(learner, views, task, head) if others else _adapted(learner, meta, task, head)
            sums = _sums(outputs, task.query.inputs.shape[1])
            total = sums if total is None else total + sums
    assert total is not None, "a shard has tasks"
    return total


def _adapted(learner: Learner, meta: Params, task: Episode, head: str) -> list[Params]:
    """Outputs [1, B, ...] of layers before the first inner step and after the last."""
    ops = one_by_one(learner)
    visits = ops.walk(meta, task, marks=(0,))
    first = next(visits)
    [last] = deque(visits, maxlen=1) or [first]  # one state at a time: all of them may not fit into memory
    inputs, places = task.query.inputs, _places(task)
    return [_layers(*ops.layers(meta, visit.state, task, inputs, places, head=head)) for visit in (first, last)]


def _as_they_are(learner: Learner, views: Sequence[Params], task: Episode, head: str) -> list[Params]:
    """Outputs [1, B, ...] of layers with the parameters of each view; those of the head if all views have one."""
    backbone = learner.backbone
    names = backbone.head_names(head) if backbone.has_head else ()
    has_outputs = bool(names) and all(set(names) <= view.keys() for view in views)
    found: list[Params] = []
    for view in views:
        net = Network(backbone, {name: view[name] for name in backbone.buffers()}, training=False)
        with torch.no_grad():
            features = net.features(view, task.query.inputs[0], task[learner.roles[0]].inputs[0], tapped=True)
            outputs = {OUTPUTS: net.head(view, features, head)} if has_outputs else {}
        found.append({name: tensor[None] for name, tensor in {**net.taps, **outputs}.items()})
    return found


def _layers(outputs: Tensor, taps: Params) -> Params:
    return {**taps, OUTPUTS: outputs}


def _places(task: Episode) -> int | None:
    return None if task.sizes is None else dict(task.sizes[0].places).get(QUERY)


def _sums(views: Sequence[Mapping[str, Tensor]], num_queries: int) -> ShardSums:
    layers, left_out = {}, []
    for name, samples in _samples(views, num_queries):
        if samples[0].shape[1] > MAX_NEURONS:
            left_out.append(name)
        else:
            layers[name] = sums_of(samples)
    return ShardSums(layers, tuple(left_out))


def _samples(views: Sequence[Mapping[str, Tensor]], num_queries: int) -> Iterator[tuple[str, list[Tensor]]]:
    """Samples [n, p] of each layer that has an output for each query, in all views."""
    for name, output in views[0].items():
        if output.dim() > 2 and output.shape[1] == num_queries and output.is_floating_point():
            yield name, [as_samples(view[name][0]) for view in views]


def as_samples(outputs: Tensor) -> Tensor:
    """Samples [n, p] of outputs [B, p], [B, L, p] or [B, p, H, W, ...]."""
    return (outputs.movedim(1, -1) if outputs.dim() > 3 else outputs).flatten(0, -2)
