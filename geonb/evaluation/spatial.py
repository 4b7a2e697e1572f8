"""Statistics that know where their values are."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from geonb._coords import EARTH_RADIUS_KM, unit_xyz
from geonb.data.splits import blocks

DRAWN_AT_ONCE = 4_000_000  # weights (draws x places) of the bootstrap held at a time; bounds the memory


def morans_i(values, lonlat, k: int = 8) -> float:
    """Moran's I of values (n,) with equal weights on each place's k nearest neighbours on the sphere.

    Near 0 (exactly -1 / (n - 1) in expectation) when values know nothing of their neighbours, near 1 when
    neighbours are alike (Moran, 1950).

    Raises:
        ValueError: no more than k places, or values that are all the same or not finite.
    """
    deviation, neighbours = _moran_terms(values, lonlat, k)
    return _moran(deviation, neighbours)


def morans_i_test(values, lonlat, k: int = 8, permutations: int = 99, seed: int = 0) -> tuple[float, float]:
    """Moran's I, and how many standard deviations it lies above that of the same values shuffled over the places."""
    deviation, neighbours = _moran_terms(values, lonlat, k)
    rng = np.random.default_rng(seed)
    shuffled = [_moran(rng.permutation(deviation), neighbours) for _ in range(permutations)]
    observed = _moran(deviation, neighbours)
    return observed, float((observed - np.mean(shuffled)) / np.std(shuffled))


def _moran_terms(values, lonlat, k: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    if len(values) <= k:
        raise ValueError(f"Moran's I with {k} neighbours needs more than {k} places, not {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(f"Moran's I: value {int((~np.isfinite(values)).argmax())} is not finite")
    deviation = values - values.mean()
    if np.ptp(values) == 0:
        raise ValueError("Moran's I of values that are all the same is not defined")
    xyz = unit_xyz(lonlat)
    _, neighbours = cKDTree(xyz).query(xyz, k=k + 1)
    own = neighbours == np.arange(len(values))[:, None]
    own[~own.any(1), -1] = True  # a place crowded out by coincident ones: drop the last neighbour instead
    return deviation, neighbours[~own].reshape(len(values), k)


def _moran(deviation: np.ndarray, neighbours: np.ndarray) -> float:
    return float((deviation * deviation[neighbours].mean(1)).sum() / (deviation**2).sum())


def block_bootstrap(lonlat, statistic, size_km: float = 500.0, draws: int = 200, seed: int = 0, level: float = 0.95):
    """A percentile interval for a statistic of places, by resampling whole spatial blocks with replacement.

    Args:
        lonlat: positions (n, 2).
        statistic: a function of weights (m, n), how often each place was drawn in each of m draws; returns m numbers.
        size_km: blocks should be no smaller than the correlation range of what is measured.

    Returns:
        (low, high).
    """
    _, block = np.unique(blocks(lonlat, size_km), return_inverse=True)
    count = block.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    step = max(1, DRAWN_AT_ONCE // len(block))
    values = [statistic(drawn[i : i + step][:, block].astype(np.float64)) for i in range(0, draws, step)]
    low, high = np.nanquantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weighted_median(values, weights) -> np.ndarray:
    """Medians (m,) of values (n,) that occur as often as weights (m, n) say; the lower one when two tie."""
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    return np.asarray(values)[order][(reached >= reached[:, -1:] / 2).argmax(1)]


def similarity_by_distance(embeddings, lonlat, edges_km, pairs: int = 200_000, seed: int = 0) -> np.ndarray:
    """Mean cosine similarity of pairs of places, by the great-circle distance between them.

    Args:
        embeddings: unit vectors (n, d).
        edges_km: increasing edges (b + 1,) of the distance bins.
        pairs: pairs drawn at random, to which each place's 10 nearest are added.

    Returns:
        Means (b,); NaN in a bin without pairs.
    """
    rng = np.random.default_rng(seed)
    xyz, n = unit_xyz(lonlat), len(embeddings)
    i, j = rng.integers(0, n, (2, pairs))
    _, near = cKDTree(xyz).query(xyz, k=min(11, n))
    i, j = np.concatenate([i, np.repeat(np.arange(n), near.shape[1])]), np.concatenate([j, near.ravel()])
    i, j = i[i != j], j[i != j]
    chord = np.linalg.norm(xyz[i] - xyz[j], axis=1)
    km = 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))
    cosine = np.einsum("ij,ij->i", embeddings[i], embeddings[j])
    place = np.digitize(km, edges_km) - 1
    inside = (place >= 0) & (place < len(edges_km) - 1)
    total = np.bincount(place[inside], cosine[inside], minlength=len(edges_km) - 1)
    count = np.bincount(place[inside], minlength=len(edges_km) - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
