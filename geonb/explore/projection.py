"""Embedding spaces in two dimensions, and how far to trust what is seen there.

UMAP is given the exact nearest neighbours by the cosine, not the points, so it needs no approximate index.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

FITTED = 20_000  # rows that UMAP is fitted to at most; all pairs of them are compared
SCORED = 2_000  # rows that the scores compare


@dataclass(frozen=True)
class Scores:
    """How much of a space a plane shows; all are 1 at best.

    Attributes:
        trustworthiness: 1 if the k nearest in the plane are near in the space too; about 0.5 by chance
            (:func:`sklearn.manifold.trustworthiness`).
        kept: share of the k nearest in the space that are among the k nearest in the plane.
        by_chance: the value of ``kept`` for a shuffled plane.
        distances: rank correlation of distances over random pairs: whether the far is shown as far.
        k: number of nearest neighbours.
        rows: number of rows compared, of ``of``.
    """

    trustworthiness: float
    kept: float
    by_chance: float
    distances: float
    k: int
    rows: int
    of: int

    def __str__(self) -> str:
        rows = "" if self.rows == self.of else f"; {self.rows:,} of {self.of:,} rows compared"
        return (
            f"trustworthiness {self.trustworthiness:.3f}, {self.kept:.0%} of the {self.k} nearest kept "
            f"(chance {self.by_chance:.1%}), distances {self.distances:.2f}{rows}"
        )


@dataclass(frozen=True)
class Stability:
    """How similar the planes of several seeds are, over all pairs of seeds.

    Attributes:
        overlap: share of the k nearest in one plane that are also among the k nearest in the other.
        disparity: what remains after one plane is shifted, turned, mirrored and scaled onto the other, as a share of
            the variance (:func:`scipy.spatial.procrustes`): 0 is the same picture, 1 nothing in common.
        spread: (n,) how far each row moves between seeds once the planes lie on each other, as a share of the plane's
            size (root mean square distance from the centre).
        seeds: number of planes.
    """

    overlap: float
    disparity: float
    spread: np.ndarray
    seeds: int

    def __str__(self) -> str:
        stay = f"{self.overlap:.0%} of the nearest in the plane stay"
        return f"between {self.seeds} seeds {stay}, Procrustes disparity {self.disparity:.2f}"


class Projection:
    """A plane fitted to embeddings by :func:`fit_projection`; ``xy`` (n, 2) float32 are their coordinates."""

    def __init__(self, embeddings: np.ndarray, xy: np.ndarray, place: Callable) -> None:
        self.xy, self._embeddings, self._place = xy, embeddings, place

    def transform(self, embeddings: ArrayLike) -> np.ndarray:
        """Put new embeddings (m, d) into the plane, which does not move: float32 (m, 2)."""
        return self._place(_unit(embeddings, 1)).astype(np.float32)

    def scores(self, k: int = 15, rows: int = SCORED) -> Scores:
        """Score this plane; see :func:`projection_scores`."""
        return projection_scores(self._embeddings, self.xy, k, rows)


def fit_projection(
    embeddings: ArrayLike,
    method: str = "umap",
    seed: int = 0,
    neighbors: int = 15,
    min_dist: float = 0.1,
    init: str = "pca",
    epochs: int | None = None,
) -> Projection:
    """Fit a plane to embeddings (n, d), compared by the cosine.

    Of more than :data:`FITTED` rows, UMAP is fitted to so many, drawn at random, and the others are put in afterwards.

    Args:
        embeddings: (n, d), n at least 4.
        method: "umap" keeps neighbours, "pca" keeps large distances.
        seed: of UMAP. The same seed gives the same coordinates; the layout runs on one thread.
        neighbors: that UMAP tries to keep near, at least 2. Fewer show detail, more show the whole.
        min_dist: of UMAP, 0 to 1. A larger value spreads points out.
        init: UMAP starts from the "pca" (then the arrangement of clusters carries information; Kobak and Linderman,
            2021) or from "random" coordinates.
        epochs: of UMAP; by default 500 up to 10,000 rows and 200 beyond. Fewer are faster and less settled.

    Raises:
        ValueError: an unknown name, fewer than 4 rows, rows that are zero or not finite, a value out of range.
    """
    z = _unit(embeddings, 4)
    if method not in ("umap", "pca"):
        raise ValueError(f"unknown method {method!r}; choose umap or pca")
    if init not in ("pca", "random"):
        raise ValueError(f"unknown init {init!r}; choose pca or random")
    if neighbors < 2 or not 0 <= min_dist <= 1:
        raise ValueError(f"neighbors must be at least 2 and min_dist in [0, 1], not {neighbors} and {min_dist}")
    if method == "pca":
        mean, axes = z.mean(0, dtype=np.float64), principal_axes(z, 2)
        return Projection(z, ((z - mean) @ axes).astype(np.float32), lambda new: (new - mean) @ axes)
    chosen = _sample(len(z), FITTED, seed)
    some, others = z[chosen], np.setdiff1d(np.arange(len(z)), chosen)
    reducer = _umap(some, seed, min(neighbors, len(some) - 1), min_dist, init, epochs)

    def place(new: np.ndarray) -> np.ndarray:
        parts = np.split(new, range(1000, len(new), 1000))
        with _quiet_umap():
            return np.concatenate([reducer.transform(np.clip(1 - part @ some.T, 0, 2)) for part in parts])

    xy = np.empty((len(z), 2), np.float32)
    xy[chosen] = reducer.embedding_
    if len(others):
        xy[others] = place(z[others])
    return Projection(z, xy, place)


def _umap(z: np.ndarray, seed: int, neighbors: int, min_dist: float, init: str, epochs: int | None) -> Any:
    """Fit UMAP to unit vectors (n, d) by their exact neighbours."""
    from scipy.sparse import csr_matrix
    from umap import UMAP

    n, rng = len(z), np.random.default_rng(seed)
    distances, rows = _nearest(z, neighbors - 1, "cosine")
    known = np.insert(rows, 0, np.arange(n), axis=1), np.insert(distances, 0, 0, axis=1).astype(np.float32)
    start = principal_components(z, 2) if init == "pca" else rng.uniform(-1, 1, (n, 2))
    start = (start / max(np.abs(start).max(), 1e-12) * 10).astype(np.float32)
    start += np.random.default_rng(seed).normal(scale=1e-4, size=(n, 2)).astype(np.float32)  # duplicates must part
    with _quiet_umap():
        reducer = UMAP(metric="precomputed", precomputed_knn=known, n_neighbors=neighbors, min_dist=min_dist,
                       init=start, n_epochs=epochs or (500 if n <= 10_000 else 200), random_state=seed,
                       transform_seed=seed)  # fmt: skip
        return reducer.fit(csr_matrix((n, n), dtype=np.float32))  # of all distances, only the known ones are needed


@contextmanager
def _quiet_umap() -> Iterator[None]:
    """Run UMAP without warnings about intended choices, and restore PyTorch's threads, which Numba sets for all."""
    import torch

    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            for message in ("n_jobs value", "precomputed_knn", "using precomputed", "Transforming new data"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        torch.set_num_threads(threads)


def project(embeddings: ArrayLike, method: str = "umap", seed: int = 0, **options: Any) -> np.ndarray:
    """Project embeddings (n, d) to coordinates float32 (n, 2); options as for :func:`fit_projection`."""
    return fit_projection(embeddings, method, seed, **options).xy


def projection_scores(embeddings: ArrayLike, xy: ArrayLike, k: int = 15, rows: int = SCORED) -> Scores:
    """Measure how much of the neighbourhoods and distances of embeddings a plane keeps.

    Args:
        embeddings: (n, d), compared by the cosine.
        xy: their coordinates (n, 2), compared by the Euclidean distance.
        k: number of nearest neighbours, fewer than half of the rows compared.
        rows: of more rows, so many are drawn at random and compared with each other.

    Raises:
        ValueError: shapes that do not match, values that are not finite, k out of range.
    """
    from scipy.stats import spearmanr
    from sklearn.manifold import trustworthiness

    z, xy = _unit(embeddings, 4), np.asarray(xy, np.float64)
    if xy.shape != (len(z), 2) or not np.isfinite(xy).all():
        raise ValueError(f"xy must be finite and of shape {(len(z), 2)}, not {xy.shape}")
    chosen = _sample(len(z), rows, 0)
    of, n, z, xy = len(z), len(chosen), z[chosen], xy[chosen]
    if not 1 <= k < n / 2:
        raise ValueError(f"k must be at least 1 and below half of the {n} rows compared, not {k}")
    i, j = np.random.default_rng(0).integers(0, n, (2, 100_000))
    i, j = i[i != j], j[i != j]
    apart = -np.einsum("ij,ij->i", z[i], z[j]), np.square(xy[i] - xy[j]).sum(1)
    return Scores(
        trustworthiness=float(trustworthiness(z, xy, n_neighbors=k, metric="cosine")),
        kept=_shared(_nearest(z, k, "cosine")[1], _nearest(xy, k)[1]),
        by_chance=k / (n - 1),
        distances=float(spearmanr(*apart).statistic),
        k=k,
        rows=n,
        of=of,
    )


def stability(planes: Sequence, k: int = 15) -> Stability:
    """Measure how similar planes of the same embeddings are that differ by the seed alone.

    Planes that start from the principal components share their large arrangement by construction; those with
    ``init="random"`` show how much of it comes from the data.

    Args:
        planes: two or more, each (n, 2).
        k: number of nearest neighbours that are compared.

    """
    from scipy.spatial import procrustes

    planes = [np.asarray(p, np.float64) for p in planes]
    n = len(planes[0])
    near = [_nearest(p, k)[1] for p in planes]
    laid = np.stack([align(p / np.std(p, axis=0).max(), planes[0]) for p in planes])
    laid /= np.linalg.norm(laid, axis=(1, 2), keepdims=True)
    return Stability(
        overlap=float(np.mean([_shared(a, b) for a, b in combinations(near, 2)])),
        disparity=float(np.mean([procrustes(a, b)[2] for a, b in combinations(planes, 2)])),
        spread=np.sqrt(np.square(laid - laid.mean(0)).sum(2).mean(0) * n),
        seeds=len(planes),
    )


def align(xy: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Centre a plane (n, 2), turn and mirror it, without scaling, so that it lies on another as well as it can."""
    from scipy.linalg import orthogonal_procrustes

    centred = xy - xy.mean(0)
    return centred @ orthogonal_procrustes(centred, to - to.mean(0))[0]


def principal_axes(values: ArrayLike, count: int, centred: bool = True) -> np.ndarray:
    """Return the first principal directions (d, count) of rows (n, d), with signs fixed so that they repeat."""
    z = np.asarray(values, np.float64)
    z = z - z.mean(0) if centred else z
    axes = np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :count]
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])


def principal_components(values: ArrayLike, count: int) -> np.ndarray:
    """Return the scores (n, count) of rows (n, d) on their first principal directions."""
    z = np.asarray(values, np.float64)
    return ((z - z.mean(0)) @ principal_axes(z, count)).astype(np.float32)


class Colours:
    """Embeddings as colours: the three principal components of those it was fitted to, each stretched over its 2nd to
    98th percentile. Fit it once for all parts of a map, or for maps to be compared.
    """

    def __init__(self, embeddings: ArrayLike) -> None:
        z = np.asarray(embeddings, np.float64)
        self.mean, self.axes = z.mean(0), principal_axes(z, 3)
        self.low, self.high = np.percentile((z - self.mean) @ self.axes, [2, 98], axis=0)

    def __call__(self, embeddings: ArrayLike) -> np.ndarray:
        """Turn embeddings (n, d) into colours (n, 3) in [0, 1]."""
        scores = (np.asarray(embeddings, np.float64) - self.mean) @ self.axes
        return np.clip((scores - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)


def as_colours(embeddings: ArrayLike) -> np.ndarray:
    """Turn embeddings into colours (n, 3) in [0, 1] by their own principal components; see :class:`Colours`."""
    return Colours(embeddings)(embeddings)


def _sample(n: int, most: int, seed: int) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _nearest(x: np.ndarray, k: int, metric: str = "euclidean") -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows, each (n, k), of the k nearest other rows."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, metric=metric).fit(x).kneighbors()


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Mean share of rows of ``a`` (n, k) that the same line of ``b`` has too."""
    return float((a[:, :, None] == b[:, None, :]).any(2).mean())


def _unit(embeddings: ArrayLike, least: int) -> np.ndarray:
    z = np.asarray(embeddings, np.float32)
    if z.ndim != 2 or len(z) < least or not np.isfinite(z).all():
        raise ValueError(f"give at least {least} finite embeddings of shape (n, d), not {z.shape}")
    length = np.linalg.norm(z, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"row {int(np.argmin(length))}: all zeros, which points nowhere; drop it")
    return z / length
