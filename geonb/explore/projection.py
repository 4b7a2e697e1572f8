"""Embedding spaces in two dimensions, and how far to trust what is seen there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import filled

FITTED = 20_000  # rows that UMAP is fitted to at most; all pairs of them are compared
SCORED = 2_000  # rows that the scores compare
K = 15  # nearest neighbours that the scores compare
EQUAL = 1e-3  # spread of unit vectors below which rounding decides which cosines are larger


@dataclass(frozen=True)
class Scores:
    """How much of a space a plane shows; all are 1 at best."""

    trustworthiness: float  # whether the K nearest in the plane are near in the space too; about 0.5 by chance
    kept: float  # share of the K nearest in the space that are among the K nearest in the plane
    distances: float  # rank correlation of distances over random pairs
    rows: int  # number of rows compared

    def __str__(self) -> str:
        return (
            f"trustworthiness {self.trustworthiness:.3f}, {self.kept:.0%} of the {K} nearest kept "
            f"(chance {K / (self.rows - 1):.1%}), distances {self.distances:.2f}; {self.rows:,} rows compared"
        )


@dataclass(frozen=True)
class Stability:
    """How similar the planes of several seeds are, over all pairs of seeds."""

    overlap: float  # share of the K nearest in one plane that are also among the K nearest in the other
    disparity: float  # share of the variance that remains after one plane is laid on the other
    spread: np.ndarray  # (n,) how far each row moves, as a share of the plane's size

    def __str__(self) -> str:
        return f"{self.overlap:.0%} of the nearest in the plane stay, Procrustes disparity {self.disparity:.2f}"


@dataclass(frozen=True)
class Projection:
    """A plane fitted by :func:`fit_projection`."""

    xy: np.ndarray  # float32 (n, 2), the coordinates of the embeddings
    place: Callable[[np.ndarray], np.ndarray]
    embeddings: np.ndarray  # (n, d), to which it was fitted

    def scores(self) -> Scores:
        """Score the plane; see :func:`projection_scores`."""
        return projection_scores(self.embeddings, self.xy)

    def transform(self, embeddings: ArrayLike) -> np.ndarray:
        """Put new embeddings (m, d) into the plane, which does not move: (m, 2); ValueError for another d."""
        z = _unit(embeddings)
        if z.shape[1] != self.embeddings.shape[1]:
            raise ValueError(f"give rows of {self.embeddings.shape[1]} dimensions, not {z.shape[1]}")
        return self.place(z)


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

    UMAP is fitted to at most :data:`FITTED` rows, drawn at random; the others are put in afterwards. Equal rows are one
    point, and warnings say where all are, or where there are fewer rows than neighbours.

    Args:
        method: "umap" keeps neighbours, "pca" keeps large distances.
        seed: of UMAP. The same seed gives the same coordinates; the layout runs on one thread.
        neighbors: of UMAP, at least 2. More show less detail and more of the whole.
        min_dist: of UMAP, 0 to 1. A larger value spreads points out.
        init: start of UMAP: "random", or the "pca" (then the arrangement of clusters carries
            information; Kobak and Linderman, 2021).
        epochs: of UMAP, by default 500 up to 10,000 rows and 200 beyond. More are more settled.

    Raises:
        ValueError: an unknown name, too few rows, rows that are zero or not finite.
    """
    z = _unit(embeddings, 4)
    if neighbors < 2 or neighbors != int(neighbors) or not 0 <= min_dist <= 1:
        raise ValueError(f"neighbors={neighbors}, min_dist={min_dist}; give a whole number from 2, and 0 to 1")
    if method not in ("umap", "pca") or init not in ("pca", "random"):
        raise ValueError(f"method {method!r}, init {init!r}; choose umap or pca, and pca or random")
    if all_equal(z, EQUAL):
        warnings.warn(f"the {len(z):,} rows are all equal; they lie on one point, which shows nothing", stacklevel=2)
        return Projection(np.zeros((len(z), 2), np.float32), lambda new: np.zeros((len(new), 2)), z)
    numbers: dict[bytes, int] = {}
    point = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in z + 0.0])  # -0 is 0
    if method == "pca" or len(numbers) < 4:
        flat = _pca(z)
        return Projection(flat(z), flat, z)
    z = z[np.unique(point, return_index=True)[1]]
    if neighbors >= len(z):
        message = f"only {len(z)} different rows for neighbors={neighbors}: all are neighbours, so groups may not show"
        warnings.warn(message, stacklevel=2)
    chosen = subsample(len(z), FITTED, seed)
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
    return Projection(xy[point], place, z[point])


def _pca(z: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a plane to rows (n, d); return the function from rows to float32 coordinates."""
    mean, axes = z.mean(0, dtype=np.float64), principal_axes(z, 2)
    return lambda rows: ((rows - mean) @ axes).astype(np.float32)


def _umap(z: np.ndarray, seed: int, neighbors: int, min_dist: float, init: str, epochs: int | None) -> Any:
    from scipy.sparse import csr_matrix
    from umap import UMAP

    n, rng = len(z), np.random.default_rng(seed)
    distances, rows = _nearest(z, neighbors - 1, "cosine")  # exact, so UMAP needs no approximate index
    known = np.insert(rows, 0, np.arange(n), axis=1), np.insert(distances, 0, 0, axis=1).astype(np.float32)
    start = _pca(z)(z) if init == "pca" else rng.uniform(-1, 1, (n, 2))
    start = (start / max(np.abs(start).max(), 1e-12) * 10).astype(np.float32)
    start += np.random.default_rng(seed).normal(scale=1e-4, size=(n, 2)).astype(np.float32)  # ties must part
    with _quiet_umap():
        reducer = UMAP(metric="precomputed", precomputed_knn=known, n_neighbors=neighbors, min_dist=min_dist,
                       init=start, n_epochs=epochs or (500 if n <= 10_000 else 200), random_state=seed,
                       transform_seed=seed)  # fmt: skip
        return reducer.fit(csr_matrix((n, n), dtype=np.float32))  # of all distances, only the known ones are needed


@contextmanager
def _quiet_umap() -> Iterator[None]:
    """Run UMAP without warnings about intended choices; restore PyTorch's threads, which Numba changes."""
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


def projection_scores(embeddings: ArrayLike, xy: ArrayLike) -> Scores:
    """Measure how much of the neighbourhoods and distances of embeddings a plane keeps.

    Args:
        embeddings: (n, d), n above 2 :data:`K`, compared by the cosine; of more than
            :data:`SCORED`, so many are drawn at random.
        xy: their coordinates (n, 2), compared by the Euclidean distance.

    Raises:
        ValueError: too few rows, rows or coordinates that are all equal, or not finite.
    """
    from scipy.stats import spearmanr
    from sklearn.manifold import trustworthiness

    z = _unit(embeddings, 2 * K + 1)
    if all_equal(z, EQUAL):
        raise ValueError(f"the {len(z):,} rows are all equal; there is nothing to compare")
    xy = _plane(xy)
    if len(xy) != len(z):
        raise ValueError(f"{len(z)} embeddings and {len(xy)} points do not match")
    chosen = subsample(len(z), SCORED)
    n, z, xy = len(chosen), z[chosen], xy[chosen]
    i, j = np.random.default_rng(0).integers(0, n, (2, 100_000))
    i, j = i[i != j], j[i != j]
    apart = -np.einsum("ij,ij->i", z[i], z[j]), np.square(xy[i] - xy[j]).sum(1)
    return Scores(
        trustworthiness=float(trustworthiness(z, xy, n_neighbors=K, metric="cosine")),
        kept=_shared(_nearest(z, K, "cosine")[1], _nearest(xy, K)[1]),
        distances=float(spearmanr(*apart).statistic),
        rows=n,
    )


def stability(planes: Sequence) -> Stability:
    """Measure how similar two or more planes (n, 2) of the same embeddings are.

    Planes that start from the principal components share their large arrangement by construction. ValueError for fewer
    rows than :data:`K` + 1, or a plane whose rows are all equal or not finite.
    """
    from scipy.spatial import procrustes

    planes = [_plane(p) for p in planes]
    near = [_nearest(p, K)[1] for p in planes]
    laid = np.stack([align(p, planes[0]) for p in planes])
    laid /= np.linalg.norm(laid, axis=(1, 2), keepdims=True)
    return Stability(
        overlap=float(np.mean([_shared(a, b) for a, b in combinations(near, 2)])),
        disparity=float(np.mean([procrustes(a, b)[2] for a, b in combinations(planes, 2)])),
        spread=np.sqrt(np.square(laid - laid.mean(0)).sum(2).mean(0) * len(laid[0])),
    )


def align(xy: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Centre a plane (n, 2), then turn and mirror it, without scaling, to lie best on another."""
    from scipy.linalg import orthogonal_procrustes

    centred = xy - xy.mean(0)
    return centred @ orthogonal_procrustes(centred, to - to.mean(0))[0]


def principal_axes(values: ArrayLike, count: int, centred: bool = True) -> np.ndarray:
    """Return the first principal directions (d, count) of rows (n, d), with repeatable signs; zeros beyond d."""
    z = np.asarray(values, np.float64)
    z = z - z.mean(0) if centred else z
    axes = np.linalg.eigh(z.T @ z)[1][:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    return np.pad(axes, ((0, 0), (0, count - axes.shape[1])))


class Colours:
    """Principal components as colours, stretched over the 2nd to 98th percentile; fitted once for all maps.

    Rows that are not finite are a ValueError; rows that are all equal get one colour, and a warning.
    """

    def __init__(self, embeddings: ArrayLike) -> None:
        z = _finite(embeddings).astype(np.float64)
        z = z if len(z) else np.zeros((1, z.shape[1]))  # of no rows any colours will do
        self.mean, self.axes = z.mean(0), principal_axes(z, 3)
        if len(z) > 1 and all_equal(z, 1e-6):
            warnings.warn(f"the {len(z):,} rows are all equal; one colour shows nothing", stacklevel=2)
            self.axes *= 0
        self.low, self.high = np.percentile((z - self.mean) @ self.axes, [2, 98], axis=0)

    def __call__(self, embeddings: ArrayLike) -> np.ndarray:
        """Turn embeddings (n, d) into colours (n, 3) in [0, 1]."""
        scores = (_finite(embeddings) - self.mean) @ self.axes
        return np.clip((scores - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)


def as_colours(embeddings: ArrayLike) -> np.ndarray:
    """Turn embeddings (n, d) into colours (n, 3) in [0, 1], by their own principal components."""
    return Colours(embeddings)(embeddings)


def all_equal(values: np.ndarray, share: float = 0.0) -> bool:
    """Tell whether rows (n, d) differ by at most so large a share of their length."""
    return bool(np.linalg.norm(np.ptp(values, axis=0)) <= share * np.linalg.norm(values[0]))


def subsample(n: int, most: int, seed: int = 0) -> np.ndarray:
    """Return the rows (n,) below ``n`` in order, or ``most`` of them, drawn at random."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _nearest(x: np.ndarray, k: int, metric: str = "euclidean") -> tuple[np.ndarray, np.ndarray]:
    """Return distances and rows, each (n, k), of the k nearest other rows."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, metric=metric).fit(x).kneighbors()


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean share of the rows (n, k) of ``a`` that ``b`` has too."""
    return float((a[:, :, None] == b[:, None, :]).any(2).mean())


def _unit(embeddings: ArrayLike, least: int = 1) -> np.ndarray:
    z = _finite(embeddings, least)
    largest = np.abs(z).max(1, keepdims=True)
    if not largest.all():
        raise ValueError(f"row {int(np.argmin(largest))}: all zeros, which points nowhere; drop it")
    z = np.ldexp(z, -np.frexp(largest)[1]).astype(np.float32)  # exact; squares would be 0 or infinite
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def _plane(xy: ArrayLike) -> np.ndarray:
    plane = _finite(xy, K + 1).astype(np.float64)
    if all_equal(plane):
        raise ValueError(f"the {len(plane):,} points of a plane are all equal; there is nothing to compare")
    return plane


def _finite(values: ArrayLike, least: int = 0) -> np.ndarray:
    """Return rows (n, d) of floats; ValueError for too few, or for the first one that is not finite."""
    z = filled(values)
    if z.ndim != 2 or len(z) < least or not z.shape[1]:
        raise ValueError(f"give at least {least} rows of shape (n, d), not {z.shape}")
    if not (finite := np.isfinite(z).all(1)).all():
        raise ValueError(f"row {int(np.argmin(finite))}: not finite; drop or fill it")
    return z
