"""Measures of an embedding space, and of two spaces of the same places. They know nothing of positions or tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

COMPARED = 4000  # rows at most, for the mean over pairs
DISCARDED = 0.1  # of the ratios of TwoNN


def effective_rank(embeddings: ArrayLike) -> float:
    """Compute RankMe (Garrido et al., 2023): exp of the entropy of the normalised singular values of (n, d) embeddings.

    Between 1 (all on a line) and d (spread evenly over all directions).

    Example:
        >>> round(effective_rank(np.eye(5)), 3), round(effective_rank(np.ones((5, 3))), 3)
        (5.0, 1.0)
    """
    z = np.asarray(embeddings, np.float64)
    squared = np.linalg.eigvalsh(z.T @ z if z.shape[0] > z.shape[1] else z @ z.T)
    singular = np.sqrt(squared[squared > squared.max() * 1e-14])  # smaller ones are rounding
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def alignment(a: ArrayLike, b: ArrayLike) -> float:
    """Average the squared distance of paired unit vectors (n, d): 0 is perfect, 2 is chance (Wang and Isola, 2020)."""
    return float(((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2).sum(1).mean())


def uniformity(embeddings: ArrayLike) -> float:
    """Compute ``log E exp(-2 |x - y|^2)`` over pairs of unit vectors (n, d) (Wang and Isola, 2020): 0 if all coincide.

    At most 4,000 rows, drawn at random, are compared.
    """
    z = np.asarray(embeddings, np.float64)
    if len(z) > COMPARED:
        z = z[np.random.default_rng(0).choice(len(z), COMPARED, replace=False)]
    upper = np.triu_indices(len(z), 1)
    return float(np.log(np.exp(-4 + 4 * (z @ z.T)[upper]).mean()))


def modality_gap(a: ArrayLike, b: ArrayLike) -> float:
    """Measure the distance between the means of two modalities (n, d) (Liang et al., 2022): 0 is no gap, at most 2."""
    return float(np.linalg.norm(np.asarray(a, np.float64).mean(0) - np.asarray(b, np.float64).mean(0)))


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the linear centred kernel alignment of representations (n, d1), (n, d2) of the same places (Kornblith et
    al., 2019, eq. 3): 0 unrelated, 1 equal up to rotation and scale; NaN where one is constant."""
    a, b = (np.asarray(x, np.float64) - np.mean(x, 0, dtype=np.float64) for x in (a, b))
    spread = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.square(a.T @ b).sum() / spread) if spread else float("nan")


def two_nn(x: ArrayLike) -> float:
    """Estimate the intrinsic dimension from each row's two nearest neighbours (Facco et al., 2017, Sci. Rep. 7, 12140).

    The ratios mu of the second distance to the first have the survival function mu^-d wherever density is constant
    over two neighbours, so -log(1 - F) against log mu is a line through the origin with slope d. The tenth of the rows
    with the largest ratios is left out. Of rows (n, d_x) that coincide one is kept.

    Raises:
        ValueError: fewer than 10 different rows.

    Example:
        A plane has two dimensions, however many coordinates it is given in:

        >>> u, v = np.random.default_rng(0).random((2, 1000))
        >>> round(two_nn(np.stack([u, v, u + v, u - v], 1)))
        2
    """
    first, second = _neighbours(_distinct(x, 10), 2)[0].T
    ratios = np.sort(second / first)
    n = len(ratios)
    used = int(n * (1 - DISCARDED))
    log_mu, survival = np.log(ratios[:used]), -np.log1p(-np.arange(1, used + 1) / (n + 1))
    return float(log_mu @ survival / (log_mu @ log_mu))


def levina_bickel(x: ArrayLike, k: int = 20) -> float:
    """Estimate the intrinsic dimension by maximum likelihood of the distances to the k nearest neighbours (Levina and
    Bickel, 2004, eq. 8), inverses averaged over rows as in MacKay and Ghahramani (2005).

    Of rows (n, d_x) that coincide one is kept; a larger k looks at larger neighbourhoods.
    """
    return float((k - 1) / (k - 2) / np.mean(1 / local_dimension(_distinct(x, k + 2), k)))


def local_dimension(x: Sequence | np.ndarray, k: int = 50) -> np.ndarray:
    """Estimate the intrinsic dimension (n,) around each row from its k nearest neighbours by maximum likelihood, with
    k - 2 in place of k - 1, which makes it unbiased (Levina and Bickel, 2004, eq. 8 and 9).

    Neighbours that coincide with the row count as lying just beside it.

    Raises:
        ValueError: k below 3, or no more than k rows.
    """
    if k < 3 or len(x) <= k:
        raise ValueError(f"{len(x)} rows and {k} neighbours; give 3 neighbours or more, and more rows than neighbours")
    distances = _neighbours(x, k)[0]
    distances = np.maximum(distances, 1e-9 * np.maximum(distances[:, -1:], 1e-300))
    return (k - 2) / np.maximum(np.log(distances[:, -1:] / distances[:, :-1]).sum(1), 1e-12)


def neighbour_overlap(a: ArrayLike, b: ArrayLike, k: int = 10) -> float:
    """Compute the share of each row's k nearest neighbours (Euclidean) that two representations (n, d1), (n, d2) of the
    same places have in common, from 0 to 1; chance is k / (n - 1). After Venna and Kaski (2001)."""
    near = [_neighbours(x, k)[1] for x in (a, b)]
    return float(np.mean([len(np.intersect1d(p, q)) / k for p, q in zip(*near, strict=True)]))


def _distinct(x: ArrayLike, least: int) -> np.ndarray:
    x = np.unique(np.asarray(x, np.float64), axis=0)
    if len(x) < least:
        raise ValueError(f"only {len(x)} different rows; a dimension needs {least} or more")
    return x


def _neighbours(x: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(distances, rows), each (n, k), of the k nearest other rows, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    x = np.asarray(x, np.float64)
    x = x - x.mean(0)  # scikit-learn subtracts squares, which loses least near the origin
    rows = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(return_distance=False)
    exact = np.stack([np.linalg.norm(x - x[column], axis=1) for column in rows.T], 1)
    order = exact.argsort(1)
    return np.take_along_axis(exact, order, 1), np.take_along_axis(rows, order, 1)
