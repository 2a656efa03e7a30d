"""Train a linear head on features, one example a step (Javed & White 2019, arXiv 1905.12588, section 5).

    logits = W [f, 1]        W = 0 at first        W <- optimizer(W, grad of the cross-entropy of one example)

The stream has the examples of one class after those of the other, and no example twice. The oracle sees the same
examples in an order drawn at random, and may see them several times: what is missing to it is what is forgotten.

Gradients are products of two vectors, p [f, 1]' with p = softmax - onehot, so that a step is one pass over W for each
of the optimizer's tensors.

Shapes: C classes, K training and Q test examples of a class, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Examples:
    """The features of a stream, in the order of its classes.

    Attributes:
        train: [C, K, D].
        test: [C, Q, D].
    """

    train: Tensor
    test: Tensor

    @property
    def classes(self) -> int:
        """C."""
        return len(self.train)

    def held_out(self) -> Examples:
        """The training examples alone, the last third of each class as test examples: to choose a rate by."""
        count = max(1, self.train.shape[1] // 3)
        return Examples(self.train[:, :-count], self.train[:, -count:])


@dataclass(frozen=True)
class Point:
    """Accuracies along a stream.

    Attributes:
        classes: Number of classes seen, over which they are taken.
        train: Of their training examples.
        test: Of their test examples.
    """

    classes: int
    train: float
    test: float


class Head(ABC):
    """A linear head of zeros in training.

    Args:
        classes: C.
        features: D.
        rate: Learning rate.
        like: A tensor of the type that is wanted.

    Attributes:
        weight: [C, D + 1].
    """

    def __init__(self, classes: int, features: int, rate: float, like: Tensor) -> None:
        self.weight, self.rate = like.new_zeros(classes, features + 1), rate

    def step(self, features: Tensor, label: int) -> None:
        """Learn one example: features [D + 1], the last one 1."""
        slope = torch.softmax(self.weight @ features, 0)
        slope[label] -= 1
        self._move(slope, features)

    @abstractmethod
    def _move(self, slope: Tensor, features: Tensor) -> None:
        """Move the weight by its gradient, slope [C] times features [D + 1]."""

    def accuracy(self, examples: Tensor) -> float:
        """The share of examples [C', K, D] of the first C' classes that are classified right, among all C."""
        logits = examples @ self.weight[:, :-1].T + self.weight[:, -1]
        labels = torch.arange(len(examples), device=examples.device)
        return float((logits.argmax(-1) == labels[:, None]).double().mean())


class SgdHead(Head):
    """Stochastic gradient descent."""

    def _move(self, slope: Tensor, features: Tensor) -> None:
        self.weight.addr_(slope, features, alpha=-self.rate)


class AdamHead(Head):
    """Adam (Kingma & Ba 2015), as the codes of OML and ANML test."""

    def __init__(self, classes: int, features: int, rate: float, like: Tensor) -> None:
        super().__init__(classes, features, rate, like)
        self._first, self._second = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self._scale, self._steps = torch.zeros_like(self.weight), 0

    def _move(self, slope: Tensor, features: Tensor) -> None:
        self._steps += 1
        correction1, correction2 = 1 - BETA1**self._steps, (1 - BETA2**self._steps) ** 0.5
        self._first.addr_(slope, features, beta=BETA1, alpha=1 - BETA1)
        self._second.addr_(slope.square(), features.square(), beta=BETA2, alpha=1 - BETA2)
        torch.sqrt(self._second, out=self._scale).add_(EPSILON * correction2)
        self.weight.addcdiv_(self._first, self._scale, value=-self.rate * correction2 / correction1)


OPTIMIZERS: dict[str, Callable[[int, int, float, Tensor], Head]] = {"adam": AdamHead, "sgd": SgdHead}
"""Heads by name of the optimizer."""


def stream(examples: Examples, optimizer: str, rate: float, marks: Sequence[int] = ()) -> list[Point]:
    """Learn the classes one after the other.

    Args:
        examples: What is learned, and tested on.
        optimizer: Of `OPTIMIZERS`.
        rate: Its learning rate.
        marks: Numbers of classes after which the head is tested on those seen; always after the last.

    Returns:
        A point for each mark, in ascending order; the last one is the end.
    """
    classes, shots = examples.train.shape[:2]
    order = torch.arange(classes * shots)
    wanted = {mark * shots for mark in marks if mark < classes} | {classes * shots}
    return [
        Point(done // shots, *(head.accuracy(each[: done // shots]) for each in (examples.train, examples.test)))
        for done, head in _learn(examples, optimizer, rate, order)
        if done in wanted
    ]


def oracle(examples: Examples, optimizer: str, rate: float, passes: int, seed: int) -> Point:
    """Learn the same examples in random orders, `passes` times; the accuracies at the end."""
    rng, count = torch.Generator().manual_seed(seed), examples.classes * examples.train.shape[1]
    order = torch.cat([torch.randperm(count, generator=rng) for _ in range(passes)])
    *_, (_, head) = _learn(examples, optimizer, rate, order)
    return Point(examples.classes, head.accuracy(examples.train), head.accuracy(examples.test))


def _learn(examples: Examples, optimizer: str, rate: float, order: Tensor) -> Iterator[tuple[int, Head]]:
    """The head after each step, with the number of steps; `order` has positions among the C K examples."""
    classes, shots, num_features = examples.train.shape
    rows = examples.train.reshape(-1, num_features)
    rows = torch.cat((rows, rows.new_ones(len(rows), 1)), 1)
    head = OPTIMIZERS[optimizer](classes, num_features, rate, rows)
    for done, position in enumerate(order.tolist(), start=1):
        head.step(rows[position], position // shots)
        yield done, head
