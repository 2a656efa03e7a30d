"""Similarity of representations, from sums over samples in float64: linear CKA and CCA.

X [n, p] and Y [n, p] hold the outputs of one layer in two networks (views), a sample in each row. With the covariances
Cxx = X'X / n - mean(X) mean(X)', Cxy and Cyy:

    CKA, biased   = |Cxy|^2 / (|Cxx| |Cyy|)                           Kornblith et al. 2019, arXiv 1905.00414
    CKA           = mean H(X, Y) / sqrt(mean H(X, X) mean H(Y, Y))    Nguyen et al. 2021, arXiv 2010.15327
    CCA           = mean of the canonical correlations: the singular values of Cxx^-1/2 Cxy Cyy^-1/2
    PWCCA         = their mean weighted by sum_j |<h_i, x_j>|         Morcos et al. 2018, arXiv 1806.05759

|.| is the Frobenius norm, h_i the canonical variates of X. H is HSIC_1 (Song et al. 2012), the unbiased estimate of the
Hilbert-Schmidt independence criterion, of the samples of one task; the mean is over tasks, which take the place of the
paper's mini-batches. It depends on differences of samples alone, so that X and Y may be centred. With a_i = |x_i|^2 and
b_i = |y_i|^2 of centred samples it needs no Gram matrix:

    H(X, Y) = (|X'Y|^2 - sum a_i b_i + sum a sum b / ((n - 1)(n - 2)) - 2 sum a_i b_i / (n - 2)) / (n (n - 3))

Directions with less than `SMALLEST_VARIANCE` of the largest variance are not part of canonical correlations: the
rounding of the forward pass fills them.

Shapes: V views, n samples, p neurons, r directions with variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
SMALLEST_VARIANCE = 1e-10
FEWEST_SAMPLES = 4
"""Samples that the unbiased estimate needs."""


@dataclass(frozen=True)
class LayerSums:
    """Sums over the samples of one layer in V views of the same inputs. Sums of shards are added.

    Attributes:
        tasks: Number of tasks.
        samples: Number of samples n.
        total: [V, p] sums of samples.
        products: [V, V, p, p] sums of products X'Y.
        hsic: [V, V] HSIC_1, summed over tasks.
    """

    tasks: int
    samples: int
    total: Array
    products: Array
    hsic: Array

    def __add__(self, other: LayerSums) -> LayerSums:
        return LayerSums(
            self.tasks + other.tasks,
            self.samples + other.samples,
            self.total + other.total,
            self.products + other.products,
            self.hsic + other.hsic,
        )


@dataclass(frozen=True)
class Similarity:
    """How similar two views are, 0 to 1. NaN where it is not defined: outputs without variance; canonical correlations
    of so few samples that some would be 1 by their number alone.

    Attributes:
        cka: Linear CKA by the unbiased estimate, which may be a little below 0.
        cka_biased: Linear CKA as first defined, which is too high where samples are few.
        cca: Mean canonical correlation.
        pwcca: Canonical correlations weighted by their part in the first view: not symmetric.
    """

    cka: float
    cka_biased: float
    cca: float
    pwcca: float


def sums_of(views: Sequence[Tensor]) -> LayerSums:
    """The sums of one task.

    Args:
        views: [n, p] each, of the same inputs.
    """
    exact = [view.double() for view in views]
    centred = [view - view.mean(0) for view in exact]
    products = [[x.T @ y for y in exact] for x in exact]
    hsic = [[unbiased_hsic(x, y) for y in centred] for x in centred]
    return LayerSums(
        1,
        len(exact[0]),
        torch.stack([view.sum(0) for view in exact]).cpu().numpy(),
        torch.stack([torch.stack(row) for row in products]).cpu().numpy(),
        np.array(hsic),
    )


def unbiased_hsic(x: Tensor, y: Tensor) -> float:
    """HSIC_1 of centred samples [n, p] and [n, q] under linear kernels; NaN for fewer than four."""
    n = len(x)
    if n < FEWEST_SAMPLES:
        return math.nan
    a, b = x.square().sum(1), y.square().sum(1)
    cross = float((x.T @ y).square().sum())
    both = float((a * b).sum())
    return (cross - both + float(a.sum() * b.sum()) / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3))


def similarity(sums: LayerSums, first: int, second: int) -> Similarity:
    """Compare two of the views."""
    xx, xy, yy = (covariance(sums, *pair) for pair in ((first, first), (first, second), (second, second)))
    correlations, weights = canonical(xx, xy, yy, sums.samples)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Similarity(
            cka=_normalised(*(float(sums.hsic[pair]) for pair in ((first, second), (first, first), (second, second)))),
            cka_biased=_normalised(*(float(np.square(each).sum()) for each in (xy, xx, yy))),
            cca=float(correlations.mean()) if len(correlations) else math.nan,
            pwcca=float(weights @ correlations / weights.sum()) if len(correlations) else math.nan,
        )


def covariance(sums: LayerSums, first: int, second: int) -> Array:
    """Covariance [p, p] of two views."""
    mean = sums.total / sums.samples
    found: Array = sums.products[first, second] / sums.samples - np.outer(mean[first], mean[second])
    return found


def canonical(xx: Array, xy: Array, yy: Array, samples: int) -> tuple[Array, Array]:
    """Canonical correlations [r], and their weights in the first view.

    Args:
        xx: Covariances [p, p] of X.
        xy: [p, q] of X and Y.
        yy: [q, q] of Y.
        samples: n, of which they are.

    Returns:
        Empty arrays where a view has no variance, or n - 1 <= r_x + r_y: then some correlations are 1 by necessity.
    """
    (root_x, inverse_x), (_, inverse_y) = _roots(xx), _roots(yy)
    if not (inverse_x.shape[1] and inverse_y.shape[1]) or samples - 1 <= inverse_x.shape[1] + inverse_y.shape[1]:
        return np.zeros(0), np.zeros(0)
    left, correlations, _ = np.linalg.svd(inverse_x.T @ xy @ inverse_y, full_matrices=False)
    return np.clip(correlations, 0.0, 1.0), np.abs(root_x @ left).sum(0)


def _roots(covariance: Array) -> tuple[Array, Array]:
    """U L^1/2 and U L^-1/2, [p, r] each, of U L U' with the r directions that have variance."""
    if not np.isfinite(covariance).all():
        return np.zeros((len(covariance), 0)), np.zeros((len(covariance), 0))
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > max(SMALLEST_VARIANCE * variances[-1], 0.0)
    roots = np.sqrt(variances[kept])
    return directions[:, kept] * roots, directions[:, kept] / roots


def _normalised(both: float, first: float, second: float) -> float:
    """`both / sqrt(first second)`, exactly 1 for three equal numbers; NaN where a factor is not positive."""
    return both / math.sqrt(first * second) if first > 0 and second > 0 else math.nan
