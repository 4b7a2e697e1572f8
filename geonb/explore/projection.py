"""Embedding spaces in two dimensions, and how far to trust what is seen there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import torch

EXACT = 20_000  # rows up to which all pairs are compared to find neighbours
RECALL = 0.98  # of true neighbours that must be found beyond that, measured on CHECKED rows
CHECKED = 500
SCORED = 1_000  # rows whose neighbours are compared exactly for the scores
INITS = ("pca", "random")


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Numba, on which UMAP runs, sets the threads of OpenMP for all of the process, PyTorch with it. Afterwards
    they are put back: what is trained after a picture must not differ, in the last digits, for the picture's sake."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Scores:
    """How much of a space a plane shows. All are 1 at best.

    Attributes:
        trustworthiness: 1 if the k nearest in the plane are near in the space too; .5 or so by chance (Venna and
            Kaski, 2001; as ``sklearn.manifold.trustworthiness`` has it).
        kept: share of the k nearest in the space that are among the k nearest in the plane.
        by_chance: what ``kept`` would be if the plane were shuffled.
        distances: rank correlation of distances, over pairs drawn at random: whether the far is shown as far.
        k: how many nearest.
        rows: how many rows were compared with all others; fewer than ``of`` if these were too many.
        error: standard error of ``kept`` from taking ``rows`` of them, 0 if all were taken.
    """

    trustworthiness: float
    kept: float
    by_chance: float
    distances: float
    k: int
    rows: int
    of: int
    error: float

    def __str__(self) -> str:
        rows = "" if self.rows == self.of else f"; {self.rows:,} of {self.of:,} rows compared"
        return (
            f"trustworthiness {self.trustworthiness:.3f}, {self.kept:.0%} of the {self.k} nearest kept "
            f"(chance {self.by_chance:.1%}), distances {self.distances:.2f}{rows}"
        )

    def to_dict(self) -> dict:
        """The attributes by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Stability:
    """How alike the planes of several seeds are, over all pairs of seeds.

    Attributes:
        overlap: share of the k nearest in one plane that are also among the k nearest in the other.
        disparity: what remains after shifting, turning, mirroring and scaling one onto the other, as a share of the
            variance (``scipy.spatial.procrustes``): 0 is the same picture, 1 nothing in common.
        spread: (n,) for each row, how far it moves between seeds once the planes lie on each other, as a share of
            the plane's size (root mean square distance from the centre): small is a place that always lands there.
        seeds, k: what was compared.
    """

    overlap: float
    disparity: float
    spread: np.ndarray
    seeds: tuple[int, ...]
    k: int

    def __str__(self) -> str:
        return (
            f"between {len(self.seeds)} seeds {self.overlap:.0%} of the {self.k} nearest in the plane stay, "
            f"Procrustes disparity {self.disparity:.2f}"
        )


class Projection:
    """A plane fitted to embeddings, which takes new ones too. Made by :func:`fit_projection`.

    Attributes:
        xy: float32 (n, 2), the coordinates of the embeddings it was fitted to.
        method: "umap" or "pca".
        recall: share of true nearest neighbours that the search found, measured; 1 where all pairs were compared.
    """

    def __init__(self, method: str, embeddings: np.ndarray, xy: np.ndarray, recall: float, fitted: Any) -> None:
        self.method, self.xy, self.recall = method, xy, recall
        self._embeddings, self._fitted = embeddings, fitted

    @_threads_kept()
    def transform(self, embeddings: ArrayLike) -> np.ndarray:
        """New embeddings (m, d) -> float32 (m, 2) in the same plane; the plane itself does not move.

        Raises:
            ValueError: not finite, or of another dimension.
        """
        z = _unit(embeddings, 1)
        if z.shape[1] != self._embeddings.shape[1]:
            raise ValueError(f"these have {z.shape[1]} dimensions, the plane was fitted to {self._embeddings.shape[1]}")
        if self.method == "pca":
            mean, axes = self._fitted
            return ((z - mean) @ axes).astype(np.float32)
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="umap")
            return self._fitted.transform(z).astype(np.float32)

    def scores(self, k: int = 15, rows: int = SCORED, seed: int = 0) -> Scores:
        """See :func:`projection_scores`."""
        return projection_scores(self._embeddings, self.xy, k, rows, seed)


def project(
    embeddings: ArrayLike,
    method: str = "umap",
    seed: int = 0,
    neighbors: int = 15,
    min_dist: float = 0.1,
    init: str = "pca",
    epochs: int | None = None,
) -> np.ndarray:
    """Embeddings (n, d) -> coordinates float32 (n, 2), the same for the same seed. See :func:`fit_projection`."""
    return fit_projection(embeddings, method, seed, neighbors, min_dist, init, epochs).xy


@_threads_kept()
def fit_projection(
    embeddings: ArrayLike,
    method: str = "umap",
    seed: int = 0,
    neighbors: int = 15,
    min_dist: float = 0.1,
    init: str = "pca",
    epochs: int | None = None,
    near: tuple[np.ndarray, np.ndarray] | None = None,
) -> Projection:
    """Fit a plane to embeddings; it can then place new ones.

    Args:
        embeddings: (n, d), brought to unit length; "umap" compares them by the cosine.
        method: "umap" (McInnes et al., 2018) keeps neighbourhoods and little else: distances between clusters and
            their sizes mean nothing. "pca" keeps the two directions of largest variance.
        seed: of UMAP. The same seed gives the same coordinates: the layout runs on one thread, whatever there are.
        neighbors: how many nearest ones UMAP tries to keep; fewer shows detail, more shows the whole.
        min_dist: of UMAP, how closely points may be packed, 0 to 1.
        init: where UMAP starts: from the "pca" (the arrangement of clusters then tells something; Kobak and
            Linderman, 2021) or from "random" coordinates.
        epochs: of UMAP; by default 500 up to 10,000 rows and 200 beyond.
        near: the result of :func:`nearest_by_cosine` for at least ``neighbors``, where it is known already.

    Raises:
        ValueError: an unknown method or init, fewer than 4 rows, rows that are zero or not finite, a parameter out of
            range.
    """
    z = _unit(embeddings, 4)
    if method == "pca":
        mean = z.mean(0, dtype=np.float64)
        axes = principal_axes(z, 2)
        return Projection("pca", z, ((z - mean) @ axes).astype(np.float32), 1.0, (mean, axes))
    if method != "umap" or init not in INITS:
        what = f"init {init!r}; choose pca or random" if method == "umap" else f"method {method!r}; choose umap or pca"
        raise ValueError(f"unknown {what}")
    if neighbors < 2 or not 0 <= min_dist <= 1:
        raise ValueError(f"neighbors must be at least 2 and min_dist in [0, 1], not {neighbors} and {min_dist}")
    import warnings

    from umap import UMAP

    n = len(z)
    neighbors = min(neighbors, n - 1)
    indices, distances = nearest_by_cosine(z, neighbors, seed=seed) if near is None else near
    indices, distances = indices[:, :neighbors].copy(), distances[:, :neighbors].copy()  # UMAP writes into them
    recall = 1.0 if n <= EXACT else _recall(z, indices, seed)
    start = principal_components(z, 2) if init == "pca" else np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    start = (start / max(np.abs(start).max(), 1e-12) * 10).astype(np.float32)
    start += np.random.default_rng(seed).normal(scale=1e-4, size=(n, 2)).astype(np.float32)  # doubles must part
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a fixed seed runs on one thread; that is meant
        warnings.filterwarnings("ignore", message="precomputed_knn")  # our search serves new rows, whatever it says
        reducer = UMAP(n_neighbors=neighbors, min_dist=min_dist, metric="cosine", random_state=seed, init=start,
                       n_epochs=epochs or (500 if n <= 10_000 else 200), transform_seed=seed,
                       precomputed_knn=(indices, distances, _Search(z)))  # fmt: skip
        return Projection("umap", z, reducer.fit_transform(z).astype(np.float32), recall, reducer)


class _Search:
    """The exact neighbours of new rows, asked as UMAP asks an index of PyNNDescent."""

    _angular_trees = False

    def __init__(self, z: np.ndarray) -> None:
        self.z = z

    def query(self, rows: Any, k: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        import torch

        z, found = torch.from_numpy(self.z), []
        for part in torch.from_numpy(_unit(rows, 1)).split(1024):
            found.append((part @ z.T).topk(k, dim=1))
        cosine, indices = (torch.cat([f[i] for f in found]) for i in (0, 1))
        return indices.numpy().astype(np.int32), (1 - cosine).clamp(min=0).numpy()


def nearest_by_cosine(embeddings: ArrayLike, k: int, chunk: int = 2048, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of each row, itself first: indices int64 (n, k) and distances 1 - cosine, float32 (n, k).

    Up to 20,000 rows all pairs are compared, by matrix products. Of more, each row is compared with those of the
    clusters (k-means) that lie nearest to its own, of as many as find 98% of the true neighbours of 500 rows: seconds
    for 100,000 rows of a smooth space, where an index of PyNNDescent takes most of a minute to compile.
    """
    import torch

    z = torch.from_numpy(_unit(embeddings, 1))
    if len(z) > EXACT:
        return _nearest_by_cluster(z, k, chunk, seed)
    indices, distances = [], []
    for start in range(0, len(z), chunk):
        cosine = z[start : start + chunk] @ z.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = 2  # itself before its doubles
        near, index = cosine.topk(k, dim=1)
        indices.append(index)
        distances.append((1 - near).clamp(min=0))
    return torch.cat(indices).numpy(), torch.cat(distances).numpy()


def _nearest_by_cluster(z: Any, k: int, chunk: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    import torch

    n, clusters = len(z), int(np.sqrt(len(z)))
    draw = torch.Generator().manual_seed(seed)
    sample = z[torch.randperm(n, generator=draw)[: 50 * clusters]]
    centres = sample[:clusters].clone()
    for _ in range(5):
        sums = torch.zeros_like(centres).index_add_(0, (sample @ centres.T).argmax(1), sample)
        empty = ~sums.any(1, keepdim=True)
        centres = torch.where(empty, centres, torch.nn.functional.normalize(sums, dim=1))
    own = torch.cat([(part @ centres.T).argmax(1) for part in z.split(8192)])
    members = own.argsort(stable=True).split(torch.bincount(own, minlength=clusters).tolist())
    order = (centres @ centres.T).argsort(dim=1, descending=True, stable=True)
    rows = torch.randperm(n, generator=draw)[:CHECKED]
    truth = _neighbours(z, rows, k)

    def search(queries: Any, probes: int) -> tuple[torch.Tensor, torch.Tensor]:
        indices, distances = torch.empty(len(queries), k, dtype=torch.long), torch.empty(len(queries), k)
        homes = own[queries]
        for home in homes.unique().tolist():
            near = [members[c] for c in order[home].tolist()]
            sizes = np.cumsum([len(m) for m in near])
            others = torch.cat(near[: max(probes, int(np.searchsorted(sizes, k)) + 1)])  # k candidates at least
            for at in torch.nonzero(homes == home)[:, 0].split(chunk):
                cosine = z[queries[at]] @ z[others].T
                cosine[others == queries[at][:, None]] = 2
                value, index = cosine.topk(k, dim=1)
                indices[at], distances[at] = others[index], (1 - value).clamp(min=0)
        return indices, distances

    probes = 10
    while probes < clusters and _share(truth, search(rows, probes)[0]) < RECALL:
        probes *= 2
    indices, distances = search(torch.arange(n), min(probes, clusters))
    return indices.numpy(), distances.numpy()


def _neighbours(z: Any, rows: Any, k: int) -> torch.Tensor:
    """The exact k nearest (m, k) of some rows, each row itself first."""
    import torch

    cosine = z[rows] @ z.T
    cosine[torch.arange(len(rows)), rows] = 2
    return cosine.topk(k, dim=1).indices


def _share(truth: Any, found: Any) -> float:
    return float((truth[:, :, None] == found[:, None, :]).any(2).double().mean())


def _recall(z: np.ndarray, indices: np.ndarray, seed: int) -> float:
    import torch

    rows = torch.from_numpy(np.random.default_rng(seed).choice(len(z), CHECKED, replace=False))
    return _share(_neighbours(torch.from_numpy(z), rows, indices.shape[1]), torch.from_numpy(indices)[rows])


def projection_scores(embeddings: ArrayLike, xy: ArrayLike, k: int = 15, rows: int = SCORED, seed: int = 0) -> Scores:
    """How much of the embeddings' neighbourhoods and distances a plane keeps.

    Args:
        embeddings: (n, d), compared by the cosine.
        xy: their coordinates (n, 2), compared by the Euclidean distance.
        k: how many nearest; fewer than n / 2.
        rows: with more rows than that, so many are drawn and compared with all others, exactly.
        seed: of that draw, and of the 100,000 pairs whose distances are compared.

    Raises:
        ValueError: shapes that do not match, values that are not finite, k out of range.
    """
    import torch
    from scipy.stats import spearmanr

    z, xy = _unit(embeddings, 4), np.asarray(xy, np.float64)
    n, rng = len(z), np.random.default_rng(seed)
    if xy.shape != (n, 2) or not np.isfinite(xy).all():
        raise ValueError(f"xy must be finite and of shape {(n, 2)}, not {xy.shape}")
    if not 1 <= k < n / 2:
        raise ValueError(f"k must be at least 1 and below half of the {n} rows, not {k}")
    chosen = np.arange(n) if n <= rows else np.sort(rng.choice(n, rows, replace=False))
    space, plane = torch.from_numpy(z), torch.from_numpy(xy)
    penalties, kept = [], []
    for part in torch.from_numpy(chosen).split(max(1, 20_000_000 // n)):
        itself = (torch.arange(len(part)), part)
        far = 1 - space[part] @ space.T
        apart = torch.cdist(plane[part], plane, compute_mode="donot_use_mm_for_euclid_dist")
        far[itself], apart[itself] = float("inf"), float("inf")
        near_space, near_plane = far.topk(k, largest=False).indices, apart.topk(k, largest=False).indices
        sorted_far, to_plane = far.sort(dim=1).values, far.gather(1, near_plane)
        rank = torch.searchsorted(sorted_far, to_plane) + 1  # 1 is the nearest in the space
        penalties.append((rank - k).clamp(min=0).double().sum(1))
        kept.append((near_space[:, :, None] == near_plane[:, None, :]).any(2).double().mean(1))
    penalties, kept = torch.cat(penalties), torch.cat(kept)
    i, j = rng.integers(0, n, (2, 100_000))
    differ = i != j
    i, j = i[differ], j[differ]
    distances = spearmanr(-np.einsum("ij,ij->i", z[i], z[j]), np.square(xy[i] - xy[j]).sum(1)).statistic
    return Scores(
        trustworthiness=float(1 - 2 / (k * (2 * n - 3 * k - 1)) * penalties.mean()),
        kept=float(kept.mean()),
        by_chance=k / (n - 1),
        distances=float(distances),
        k=k,
        rows=len(chosen),
        of=n,
        error=float(kept.std() / np.sqrt(len(kept))) if len(chosen) < n else 0.0,
    )


def stability(planes: Sequence, seeds: Sequence[int] | None = None, k: int = 15, rows: int = SCORED) -> Stability:
    """How alike planes of the same embeddings are, which differ by the seed alone.

    Planes that start from the principal components share their large arrangement by construction; to learn how much of
    it the data ask for, compare planes made with ``init="random"``.

    Args:
        planes: two or more, each (n, 2).
        seeds: what they were made with, for the record.
        k: how many nearest are compared. rows: at most so many rows are, drawn at random.

    Raises:
        ValueError: fewer than two planes, shapes that do not match, or a plane that is a single point.
    """
    from itertools import combinations

    planes = [np.asarray(p, np.float64) for p in planes]
    if len(planes) < 2 or any(p.ndim != 2 or p.shape != planes[0].shape for p in planes):
        raise ValueError(f"give at least two planes of one shape (n, 2), not {[p.shape for p in planes]}")
    n = len(planes[0])
    if not 1 <= k < n:
        raise ValueError(f"k must be at least 1 and below the {n} rows, not {k}")
    chosen = np.sort(np.random.default_rng(0).choice(n, min(rows, n), replace=False))
    near = [_nearest_in_plane(p, chosen, k) for p in planes]
    overlap = [(a[:, :, None] == b[:, None, :]).any(2).mean() for a, b in combinations(near, 2)]
    left = [_disparity(a, b) for a, b in combinations(planes, 2)]
    laid = np.stack([align(_standard(p), _standard(planes[0])) for p in planes])
    spread = np.sqrt(np.square(laid - laid.mean(0)).sum(2).mean(0) * n)
    seeds = tuple(range(len(planes))) if seeds is None else tuple(seeds)
    return Stability(float(np.mean(overlap)), float(np.mean(left)), spread, seeds, k)


def _nearest_in_plane(xy: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    from scipy.spatial import KDTree

    found = KDTree(xy).query(xy[rows], k + 1)[1]
    other = np.argsort(found == rows[:, None], axis=1, kind="stable")  # itself last, wherever doubles put it
    return np.take_along_axis(found, other, 1)[:, :k]


def _standard(xy: np.ndarray) -> np.ndarray:
    """Centred, with squares that add up to 1."""
    centred = xy - xy.mean(0)
    size = np.linalg.norm(centred)
    if not size > 0:
        raise ValueError("a plane in which all points coincide cannot be compared")
    return centred / size


def _disparity(a: np.ndarray, b: np.ndarray) -> float:
    """As ``scipy.spatial.procrustes``, without its copies."""
    return float(1 - np.linalg.svd(_standard(a).T @ _standard(b), compute_uv=False).sum() ** 2)


def align(xy: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A plane (n, 2), centred, turned and mirrored, not scaled, so that it lies on another (n, 2) as well as it can."""
    u, _, v = np.linalg.svd((xy - xy.mean(0)).T @ (to - to.mean(0)))
    return (xy - xy.mean(0)) @ (u @ v)


def principal_axes(values: ArrayLike, count: int) -> np.ndarray:
    """The first principal directions (d, count); signs are fixed, so the result can be repeated."""
    z = np.asarray(values, np.float64)
    z = z - z.mean(0)
    _, vectors = np.linalg.eigh(z.T @ z)
    axes = vectors[:, ::-1][:, :count]
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])


def principal_components(values: ArrayLike, count: int) -> np.ndarray:
    """Scores (n, count) on the first principal components; signs are fixed, so the result can be repeated."""
    z = np.asarray(values, np.float64)
    return ((z - z.mean(0)) @ principal_axes(z, count)).astype(np.float32)


class Colours:
    """Embeddings as colours, by the three principal components of those it was fitted to.

    Each component is stretched over its 2nd to 98th percentile, so that places alike in the embedding get like colours.
    Fit it once and use it for all parts of a map, or for two maps to be compared.
    """

    def __init__(self, embeddings: ArrayLike) -> None:
        z = np.asarray(embeddings, np.float64)
        self.mean, self.axes = z.mean(0), principal_axes(z, 3)
        self.low, self.high = np.percentile((z - self.mean) @ self.axes, [2, 98], axis=0)

    def __call__(self, embeddings: ArrayLike) -> np.ndarray:
        """Embeddings (n, d) -> colours (n, 3) in [0, 1]."""
        scores = (np.asarray(embeddings, np.float64) - self.mean) @ self.axes
        return np.clip((scores - self.low) / np.maximum(self.high - self.low, 1e-12), 0, 1)


def as_colours(embeddings: ArrayLike) -> np.ndarray:
    """Colours (n, 3) in [0, 1] of embeddings, by their own principal components; see :class:`Colours`."""
    return Colours(embeddings)(embeddings)


def _unit(embeddings: ArrayLike, least: int) -> np.ndarray:
    z = np.asarray(embeddings, np.float32)
    if z.ndim != 2 or len(z) < least or not np.isfinite(z).all():
        raise ValueError(f"give at least {least} finite embeddings of shape (n, d), not {z.shape}")
    length = np.linalg.norm(z, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"row {int(np.argmin(length))}: all zeros, which points nowhere; drop it")
    return z / length
