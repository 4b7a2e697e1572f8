"""Measures of embedding spaces, which know neither positions nor tasks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

COMPARED = 4000  # rows at most, for the mean over pairs
DISCARDED = 0.1  # of the ratios of TwoNN, the largest


def effective_rank(embeddings: ArrayLike) -> float:
    """Compute RankMe of embeddings (n, d), from 1 (a line) to d (Garrido et al., 2023)."""
    z = np.asarray(embeddings, np.float64)
    squared = np.linalg.eigvalsh(z.T @ z if z.shape[0] > z.shape[1] else z @ z.T)
    singular = np.sqrt(squared[squared > squared.max() * 1e-14])  # smaller ones are rounding
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def alignment(a: ArrayLike, b: ArrayLike) -> float:
    """Average the squared distance of pairs (n, d); 2 is chance (Wang and Isola, 2020)."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float((difference**2).sum(1).mean())


def uniformity(embeddings: ArrayLike) -> float:
    """Compute ``log E exp(-2 |x - y|^2)`` of unit vectors (n, d) (Wang and Isola, 2020).

    0 if all coincide. At most 4,000 rows, drawn at random, are compared.
    """
    z = np.asarray(embeddings, np.float64)
    if len(z) > COMPARED:
        z = z[np.random.default_rng(0).choice(len(z), COMPARED, replace=False)]
    upper = np.triu_indices(len(z), 1)
    return float(np.log(np.exp(-4 + 4 * (z @ z.T)[upper]).mean()))


def modality_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Measure the distance of the means of two modalities (n, d) (Liang et al., 2022)."""
    return float(np.linalg.norm(np.mean(a, 0, np.float64) - np.mean(b, 0, np.float64)))


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the linear CKA of two spaces (n, d1), (n, d2) (Kornblith et al., 2019).

    0 unrelated, 1 equal up to rotation and scale; NaN where one is constant.
    """
    a, b = (np.asarray(x, np.float64) - np.mean(x, 0, dtype=np.float64) for x in (a, b))
    spread = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.square(a.T @ b).sum() / spread) if spread else float("nan")


def two_nn(x: ArrayLike) -> float:
    """Estimate the intrinsic dimension of rows (n, d) by TwoNN (Facco et al., 2017).

    Of rows that coincide one is used. ValueError for fewer than 10 different ones.
    """
    first, second = _distances(_distinct(x, 10), 2).T
    ratios = np.sort(second / first)
    n = len(ratios)
    used = int(n * (1 - DISCARDED))
    log_mu = np.log(ratios[:used])
    survival = -np.log1p(-np.arange(1, used + 1) / (n + 1))
    return float(log_mu @ survival / (log_mu @ log_mu))


def levina_bickel(x: ArrayLike, k: int = 20) -> float:
    """Estimate the intrinsic dimension of rows (n, d) (Levina and Bickel, 2004, eq. 8).

    Of rows that coincide one is used. Inverses are averaged (MacKay and Ghahramani, 2005).
    """
    return float((k - 1) / (k - 2) / np.mean(1 / local_dimension(_distinct(x, k + 2), k)))


def local_dimension(x: ArrayLike, k: int = 50) -> np.ndarray:
    """Estimate the intrinsic dimension (n,) around rows (Levina and Bickel, 2004, eq. 8).

    k - 2 in place of k - 1 makes it unbiased. A larger k looks at larger neighbourhoods.
    """
    distances = _distances(x, k)
    distances = np.maximum(distances, 1e-9 * np.maximum(distances[:, -1:], 1e-300))
    logs = np.log(distances[:, -1:] / distances[:, :-1]).sum(1)
    return (k - 2) / np.maximum(logs, 1e-12)


def _distinct(x: ArrayLike, least: int) -> np.ndarray:
    x = np.unique(np.asarray(x, np.float64), axis=0)
    if len(x) < least:
        raise ValueError(f"only {len(x)} different rows; a dimension needs {least}")
    return x


def _distances(x: ArrayLike, k: int) -> np.ndarray:
    """Distances (n, k) of each row to its k nearest others, nearest first."""
    from sklearn.neighbors import NearestNeighbors

    x = np.asarray(x, np.float64)
    x = x - x.mean(0)  # scikit-learn subtracts squares, which loses least near the origin
    nearest = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x)
    rows = nearest.kneighbors(return_distance=False)
    distances = [np.linalg.norm(x - x[column], axis=1) for column in rows.T]
    return np.sort(np.stack(distances, 1), 1)
