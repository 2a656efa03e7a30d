"""Continual learning with the features of checkpoints: the streams of OML and ANML (Javed & White 2019, arXiv
1905.12588, section 5; Beaulieu et al. 2020, arXiv 2002.09571, section 4).

A head of zeros learns C unseen classes, one example at a time, one class after the other; nothing else of the network
moves, so that features are computed once. Beside it stand the oracle, which sees the same examples in random order
several times, and the features of the network before it was trained.

An order is a draw of the classes, their order and their examples. Learning rates are chosen for each number of classes
on an order of its own, by training examples that are held out: no test example takes part.

Deviations: the papers choose rates by the accuracy on test examples; the head starts from zeros, not from random
numbers; classes without an output yet are among the wrong answers, in the papers as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from distmeta.analysis.stream import OPTIMIZERS, Examples, Point, oracle, stream
from distmeta.checkpoint import Checkpoint
from distmeta.checkpoint.reading import Which
from distmeta.config import RunConfig
from distmeta.config.load import change
from distmeta.core.errors import UserError, nearest
from distmeta.core.seeding import mix
from distmeta.core.types import QUERY, SUPPORT, Params
from distmeta.engine.lanes import Lanes
from distmeta.methods.build import build_evaluators, check_params, dtype_of
from distmeta.methods.learners.base import Learner
from distmeta.program.features import TABLE, FeatureTable
from distmeta.program.program import lanes_in
from distmeta.tasks import build_source
from distmeta.tasks.fewshot import FewShotSource
from distmeta.tracking.uris import mask_uri
from distmeta.training.evaluate import trusted
from distmeta.training.seeds import student_t
from distmeta.training.stream_result import ORACLE, STREAM, Along, End, Mean, StreamResult

RATES = {
    "adam": (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001),
    "sgd": (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003),
}
"""Learning rates to choose from; Adam's are those of Numenta's replication."""
UNTRAINED = "random features"
MARKS = 20
"""Tests along the longest stream."""
MAX_EXAMPLES = 1_000_000
"""Examples of the longest stream, which are in memory together."""


@dataclass(frozen=True)
class Protocol:
    """How streams are made and learned.

    Attributes:
        classes: Numbers of classes.
        shots: Training examples of a class.
        queries: Test examples of a class.
        orders: Number of streams of each length, at least two.
        optimizer: `adam` or `sgd`.
        rates: Learning rates to choose from; empty: `RATES`.
        passes: Times that the oracle sees each example.
        split: Split of the classes.
        seed: Seed of the streams; None takes the first run's.
        untrained: Whether the network before training is compared as well.
    """

    classes: Sequence[int] = (10, 50, 100)
    shots: int = 15
    queries: int = 5
    orders: int = 5
    optimizer: str = "adam"
    rates: Sequence[float] = ()
    passes: int = 3
    split: str = "test"
    seed: int | None = None
    untrained: bool = True


def learn_streams(
    paths: Sequence[str],
    protocol: Protocol,
    *,
    which: Which = "latest",
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> StreamResult:
    """Learn streams of unseen classes with the features of checkpoints.

    Args:
        paths: Checkpoints, or folders of runs. Classes and examples are those of the first one's tasks.
        protocol: How.
        which: Which checkpoint of a run's folder.
        overrides: Changes of the first one's configuration, `field=value`; see `evaluate`.
        trust_code: Run the code that checkpoints name.

    Raises:
        UserError: There is no intact checkpoint, the changes do not fit it, a network does not treat examples one by
            one or does not take these, or the data has too few classes or examples.
    """
    _check(protocol)
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise UserError(f"'{mask_uri(twice)}' is given twice", where="CKPT", allowed="different checkpoints")
    loaded = [trusted(path, which, trust_code=trust_code) for path in paths]
    config = change(loaded[0].config, overrides)
    source = build_source(config.tasks, config.seed if protocol.seed is None else protocol.seed, dtype_of(config))
    if not isinstance(source, FewShotSource) or source.tokens is not None:
        what = f"source '{config.tasks.source}' has no classes to learn in a stream"
        raise UserError(what, where="tasks.source", allowed="images, vectors or glyphs")
    networks = _networks(loaded, config, source.input_shape, untrained=protocol.untrained)
    lanes = lanes_in(config)
    try:
        learned = {name: _Learned(network, source, protocol, lanes) for name, network in networks.items()}
        ends = [end for each in learned for end in learned[each].ends(each)]
        along = {name: each.along for name, each in learned.items()}
    finally:
        lanes.close()
    return StreamResult([mask_uri(path) for path in paths], protocol.optimizer, protocol.orders, ends, along)


@dataclass(frozen=True)
class _Network:
    """A network with its weights."""

    learner: Learner
    params: Params


class _Learned:
    """Streams that are learned with the features of one network.

    Args:
        network: The network.
        source: Draws the streams.
        protocol: How they are learned.
        lanes: Threads that compute.

    Attributes:
        along: Means along the longest stream, once `ends` has been called.
    """

    def __init__(self, network: _Network, source: FewShotSource, protocol: Protocol, lanes: Lanes) -> None:
        self._network, self._source, self._protocol, self._lanes = network, source, protocol, lanes
        self._table = FeatureTable(network.learner, lanes, "float32")
        self.along: list[Along] = []

    def ends(self, name: str) -> list[End]:
        """Means at the end of streams and oracles of all lengths."""
        found = []
        for count in sorted(set(self._protocol.classes)):
            found += [self._stream(name, count), self._oracle(name, count)]
        return found

    def _stream(self, name: str, count: int) -> End:
        learn = partial(stream, optimizer=self._protocol.optimizer)
        rate = self._choose(count, lambda examples, rate: learn(examples, rate=rate)[-1])
        marks = sorted({max(1, count * mark // MARKS) for mark in range(1, MARKS + 1)})
        curves = self._lanes.map(lambda examples: learn(examples, rate=rate, marks=marks), self._orders(count))
        self.along = [Along(points[0].classes, *_means(points)) for points in zip(*curves, strict=True)]
        return End(name, STREAM, count, rate, *_means([curve[-1] for curve in curves]))

    def _oracle(self, name: str, count: int) -> End:
        learn = partial(
            oracle, optimizer=self._protocol.optimizer, passes=self._protocol.passes, seed=self._source.seed
        )
        rate = self._choose(count, lambda examples, rate: learn(examples, rate=rate))
        points = self._lanes.map(lambda examples: learn(examples, rate=rate), self._orders(count))
        return End(name, ORACLE, count, rate, *_means(points))

    def _choose(self, count: int, learn: Callable[[Examples, float], Point]) -> float:
        """The rate with the best accuracy on held-out training examples of an order that is not tested on."""
        examples = self._examples(count, self._protocol.orders).held_out()
        rates = list(self._protocol.rates or RATES[self._protocol.optimizer])
        points = self._lanes.map(lambda rate: learn(examples, rate), rates)
        return max(zip(rates, points, strict=True), key=lambda pair: pair[1].test)[0]

    def _orders(self, count: int) -> list[Examples]:
        return [self._examples(count, order) for order in range(self._protocol.orders)]

    def _examples(self, count: int, order: int) -> Examples:
        """The features of a stream."""
        protocol, seed = self._protocol, mix(self._source.seed, "stream", order)
        task = self._source.draw(protocol.split, seed, count, protocol.shots, protocol.queries)
        known, rows = self._table.look_up(self._network.params, task)
        train, test = (
            known[TABLE][rows[role].inputs[0, :, 0]].reshape(count, each, -1)
            for role, each in ((SUPPORT, protocol.shots), (QUERY, protocol.queries))
        )
        return Examples(train, test)


def _means(points: Sequence[Point]) -> tuple[Mean, Mean]:
    """Means of training and test accuracy over orders, with 95% intervals."""
    factor = student_t(len(points) - 1) / len(points) ** 0.5
    values = [[point.train for point in points], [point.test for point in points]]
    train, test = (Mean(statistics.mean(each), factor * statistics.stdev(each)) for each in values)
    return train, test


def _networks(
    loaded: Sequence[Checkpoint], config: RunConfig, input_shape: tuple[int, ...], *, untrained: bool
) -> dict[str, _Network]:
    """The networks of the checkpoints by name, and that of the first one before training."""
    networks: dict[str, _Network] = {}
    configs = [config, *(each.config for each in loaded[1:])]
    for checkpoint, each in zip(loaded, configs, strict=True):
        where = mask_uri(checkpoint.path)
        check_params(each, checkpoint.signature, checkpoint.averaged, checkpoint.buffers, where)
        if checkpoint.signature.input_shape != input_shape:
            what = f"takes inputs of shape {checkpoint.signature.input_shape}, not {input_shape}"
            raise UserError(what, where=where, allowed="networks for the tasks of the first checkpoint")
        learner = next(iter(build_evaluators(each, checkpoint.signature).values()))
        if not learner.backbone.is_row_wise:
            what = f"'{each.model.kind}' mixes the examples of a batch, and a stream has one at a time"
            raise UserError(what, where=f"{where}, model.kind", allowed="a network without batch norm, such as convnet")
        name = each.algorithm.method if each.algorithm.method not in networks else where
        networks[name] = _Network(learner, {**checkpoint.averaged, **checkpoint.buffers})
    if untrained:
        first = next(iter(networks.values())).learner
        networks[UNTRAINED] = _Network(first, {**first.backbone.init(config.seed), **first.backbone.buffers()})
    return networks


def _check(protocol: Protocol) -> None:
    if protocol.optimizer not in OPTIMIZERS:
        what = f"unknown optimizer '{protocol.optimizer}'"
        raise UserError(what, where="--optimizer", allowed=nearest(protocol.optimizer, OPTIMIZERS))
    if not protocol.classes or min(protocol.classes) < 2:
        raise UserError("a stream has two classes or more", where="--classes", allowed="numbers such as 10,100")
    if protocol.shots < 2:
        raise UserError(f"{protocol.shots} training examples", where="--shots", allowed="2 or more: one is held out")
    if not all(0 < rate < 1e6 for rate in protocol.rates):
        raise UserError("a learning rate is not positive", where="--rates", allowed="numbers such as 0.001,0.0003")
    examples = max(protocol.classes) * (protocol.shots + protocol.queries)
    if examples > MAX_EXAMPLES:
        raise UserError(f"{examples} examples in a stream", where="--classes", allowed=f"at most {MAX_EXAMPLES}")
