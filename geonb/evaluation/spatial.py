"""Spatial statistics of values or vectors at positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from geonb.geo import EARTH_RADIUS_KM, blocks, unit_xyz

DRAWS = 200  # of the bootstrap
MIN_BLOCKS = 6  # of b values, all lie on one side of their median with probability 2^(1 - b)
MORAN_NEIGHBOURS, MORAN_SHUFFLES = 8, 99
CHUNK = 1024  # rows of similarities in memory at a time


def morans_i(values: ArrayLike, lonlat: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Compute Moran's I of values (n,) over 8 neighbours (Moran, 1950, doi:10.2307/2332142).

    Args:
        lonlat: positions (n, 2) in degrees. ``seed``: of 99 shuffles of the values; the second
            result is the distance from their mean, in standard deviations.

    Raises:
        ValueError: fewer than 10 places, or values that are not finite or all the same.
    """
    values = np.asarray(values, np.float64)
    if len(values) <= MORAN_NEIGHBOURS + 1 or not 0 < np.ptp(values) < np.inf:
        raise ValueError("Moran's I needs 10 places or more, with finite values that differ")
    neighbours, deviation = _nearest(lonlat, MORAN_NEIGHBOURS), values - values.mean()

    def statistic(y: np.ndarray) -> float:
        return float((y * y[neighbours].mean(1)).sum() / (y**2).sum())

    rng = np.random.default_rng(seed)
    shuffled = [statistic(rng.permutation(deviation)) for _ in range(MORAN_SHUFFLES)]
    observed = statistic(deviation)
    return observed, float((observed - np.mean(shuffled)) / np.std(shuffled))


def _nearest(lonlat: ArrayLike, k: int) -> np.ndarray:
    """Rows (n, k) of each place's k nearest other places."""
    xyz = unit_xyz(lonlat)
    _, rows = cKDTree(xyz).query(xyz, k=k + 1)
    itself = rows == np.arange(len(xyz))[:, None]
    itself[~itself.any(1), -1] = True  # crowded out by coincident places: drop the last instead
    return rows[~itself].reshape(len(xyz), k)


def block_bootstrap(
    lonlat: ArrayLike, statistic: Callable[..., np.ndarray], size_km: float = 500.0, seed: int = 0
) -> tuple[float, float]:
    """Estimate a 95 % interval by resampling whole spatial blocks (Roberts et al., 2017).

    Args:
        lonlat: positions (n, 2), degrees. Fewer than 6 blocks have no interval: NaN.
        statistic: a function of weights (m, n), how often m draws have each place, to (m,).
        size_km: edge of the blocks, at least the correlation range of the values.
    """
    _, block = np.unique(blocks(lonlat, size_km), return_inverse=True)
    count = block.max() + 1
    if count < MIN_BLOCKS:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    draws = statistic(drawn.astype(np.float64)[:, block])
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def weighted_median(values: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Compute lower medians (m,) of values (n,) that are repeated by weights (m, n)."""
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    return np.asarray(values)[order][(reached >= reached[:, -1:] / 2).argmax(1)]


def variogram(values: ArrayLike, lonlat: ArrayLike, edges_km: ArrayLike, pairs: int = 200_000) -> np.ndarray:
    """Compute the semivariance (b,) of values (n,) or embeddings (n, d) (Matheron, 1963).

    Args:
        lonlat: positions (n, 2), degrees. ``edges_km``: (b + 1,) of bins; an empty one is NaN.
        pairs: drawn at random; each place's 10 nearest are added.
    """
    from scipy.stats import binned_statistic

    z, xyz = np.asarray(values, np.float64), unit_xyz(lonlat)
    z = z.reshape(len(z), -1)
    i, j = np.random.default_rng(0).integers(0, len(z), (2, pairs))
    _, near = cKDTree(xyz).query(xyz, k=11)  # itself and 10
    i = np.concatenate([i, np.repeat(np.arange(len(z)), 11)])
    j = np.concatenate([j, near.ravel()])
    i, j = i[i != j], j[i != j]
    chord = np.linalg.norm(xyz[i] - xyz[j], axis=1)
    km = 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))
    half_squares = 0.5 * ((z[i] - z[j]) ** 2).sum(1)
    return binned_statistic(km, half_squares, "mean", edges_km).statistic


def similar_beyond(embeddings: ArrayLike, lonlat: ArrayLike, min_km: float, k: int = 50) -> np.ndarray:
    """Find the k places (n, k) most similar beyond a distance. A measure of this book.

    Args:
        embeddings: unit vectors (n, d). ``lonlat``: positions (n, 2), degrees.

    Raises:
        ValueError: a place has fewer than k others beyond that distance.
    """
    z, xyz = np.asarray(embeddings, np.float32), unit_xyz(lonlat)
    far, found = np.cos(min(min_km / EARTH_RADIUS_KM, np.pi)), []
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        allowed = xyz[part] @ xyz.T <= far
        if (fewest := int(allowed.sum(1).min())) < k:
            raise ValueError(f"a place has {fewest} others beyond {min_km:,.0f} km; k = {k} is too many")
        similarity = np.where(allowed, z[part] @ z.T, -np.inf)
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(-similarity, near, 1).argsort(1, kind="stable")
        found.append(np.take_along_axis(near, order, 1))
    return np.concatenate(found)
