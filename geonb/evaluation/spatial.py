"""Spatial statistics: intervals by blocks, autocorrelation, variograms and the resolution of an embedding.

The functions take values or vectors at positions. They know nothing of tasks or models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from geonb.geo import EARTH_RADIUS_KM, blocks, check_lonlat, unit_xyz

DRAWS = 200  # of the bootstrap
MIN_BLOCKS = 6  # blocks without which there is no interval
MORAN_NEIGHBOURS, MORAN_SHUFFLES = 8, 99
RESOLVED = 0.75  # accuracy with which squares count as resolved
CHUNK = 1024  # rows of similarities in memory at a time


def morans_i(values: ArrayLike, lonlat: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Compute Moran's I (Moran, 1950, doi:10.2307/2332142), with equal weights on each place's 8 nearest neighbours.

    Near 0 (in expectation -1 / (n - 1)) for independent values, near 1 where neighbours are similar.

    Args:
        values: (n,). ``lonlat``: positions (n, 2) in degrees.
        seed: of 99 shuffles of the values over the places.

    Returns:
        (Moran's I, how many standard deviations it lies above that of the shuffled values).

    Raises:
        ValueError: no more than 8 places, or values that are all the same or not finite.

    Example:
        Latitudes are similar to their neighbours', noise is not:

        >>> rng = np.random.default_rng(0)
        >>> lonlat = rng.uniform((-180, -60), (180, 60), (2000, 2))
        >>> round(morans_i(lonlat[:, 1], lonlat)[0], 1), abs(round(morans_i(rng.random(2000), lonlat)[0], 1))
        (1.0, 0.0)
    """
    values, k = np.asarray(values, np.float64), MORAN_NEIGHBOURS
    if len(values) <= k:
        raise ValueError(f"Moran's I with {k} neighbours needs more than {k} places, not {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(f"Moran's I: value {int((~np.isfinite(values)).argmax())} is not finite")
    if np.ptp(values) == 0:
        raise ValueError("Moran's I of values that are all the same is not defined")
    neighbours, deviation = _nearest(lonlat, k), values - values.mean()

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
    itself[~itself.any(1), -1] = True  # a place crowded out by coincident ones: drop the last neighbour instead
    return rows[~itself].reshape(len(xyz), k)


def block_bootstrap(
    lonlat: ArrayLike, statistic: Callable[..., np.ndarray], size_km: float = 500.0, seed: int = 0
) -> tuple[float, float]:
    """Estimate the 95 % percentile interval of a statistic by resampling whole spatial blocks with replacement, because
    nearby places are not independent (Roberts et al., 2017).

    Args:
        lonlat: positions (n, 2) in degrees.
        statistic: a function of weights (m, n), how often each place was drawn in each of m draws; returns m numbers.
        size_km: edge of the blocks, no smaller than the correlation range of the values; larger blocks are fewer.

    Returns:
        (low, high); NaN where the places fill fewer than :data:`MIN_BLOCKS` blocks. All of b independent values lie on
        one side of their median with probability 2^(1 - b), which is above 5 % up to 5 blocks.
    """
    _, block = np.unique(blocks(lonlat, size_km), return_inverse=True)
    count = block.max() + 1
    if count < MIN_BLOCKS:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    low, high = np.nanquantile(statistic(drawn.astype(np.float64)[:, block]), [0.025, 0.975])
    return float(low), float(high)


def weighted_median(values: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Compute medians (m,) of values (n,), repeated as often as weights (m, n) say; the lower one when two tie."""
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    return np.asarray(values)[order][(reached >= reached[:, -1:] / 2).argmax(1)]


def variogram(
    values: ArrayLike, lonlat: ArrayLike, edges_km: ArrayLike, pairs: int = 200_000
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the semivariance of values (n,) or embeddings (n, d) by distance: half the mean squared difference of two
    places, summed over dimensions (Matheron, 1963). For unit vectors it is 1 minus the mean cosine similarity.

    Args:
        lonlat: positions (n, 2) in degrees.
        edges_km: increasing edges (b + 1,) of the distance bins.
        pairs: pairs drawn at random, to which each place's 10 nearest are added; more make the means steadier.

    Returns:
        (semivariance (b,), NaN in a bin without pairs; number of pairs (b,)).

    Raises:
        ValueError: edges that do not increase, or fewer than 2.
    """
    z = np.asarray(values, np.float64)
    z = z.reshape(len(z), -1)
    edges = np.asarray(edges_km, np.float64)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError(f"edges_km must increase, and be 2 or more, not {edges_km!r}")
    xyz, n = unit_xyz(lonlat), len(z)
    i, j = np.random.default_rng(0).integers(0, n, (2, pairs))
    _, near = cKDTree(xyz).query(xyz, k=min(11, n))
    i, j = np.concatenate([i, np.repeat(np.arange(n), near.shape[1])]), np.concatenate([j, near.ravel()])
    i, j = i[i != j], j[i != j]
    chord = np.linalg.norm(xyz[i] - xyz[j], axis=1)
    bins = np.digitize(2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1)), edges)
    count = np.bincount(bins, minlength=len(edges) + 1)[1:-1]  # without pairs below the first edge and beyond the last
    total = np.bincount(bins, 0.5 * ((z[i] - z[j]) ** 2).sum(1), minlength=len(edges) + 1)[1:-1]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def checkerboard(lonlat: ArrayLike, size_km: float) -> np.ndarray:
    """Color positions (n, 2), degrees, 0 or 1 (n,) by the squares of ``size_km`` of a checkerboard on the sphere.

    Rows are ``size_km`` high. Each has an even number of squares, as wide as they are high in its middle, so colors
    alternate across the antimeridian too. After the toy problem of Rußwurm et al. (2024, arXiv 2310.06743), with our
    own squares.

    Raises:
        ValueError: squares larger than a quarter of the way around the Earth, or not larger than 0.
    """
    lonlat = check_lonlat(lonlat)
    if not 0 < size_km <= np.pi / 2 * EARTH_RADIUS_KM:
        raise ValueError(f"squares of {size_km:g} km; give more than 0 and at most 10,007 km")
    rows = round(np.pi * EARTH_RADIUS_KM / size_km)
    row = np.minimum(((lonlat[:, 1] + 90) / 180 * rows).astype(np.int64), rows - 1)
    middle = np.radians(-90 + (np.arange(rows) + 0.5) * 180 / rows)
    columns = 2 * np.maximum(1, np.round(np.pi * EARTH_RADIUS_KM * np.cos(middle) / size_km)).astype(np.int64)
    column = np.floor((lonlat[:, 0] + 180) / 360 * columns[row]).astype(np.int64) % columns[row]
    return (row + column) % 2


def checkerboard_accuracy(
    embed: Callable[[np.ndarray], np.ndarray], sizes_km: Sequence | np.ndarray, n: int = 4000
) -> np.ndarray:
    """Measure the accuracy (s,) of a linear probe that predicts the colors of a :func:`checkerboard` of each size.

    It measures which patterns can be read from an embedding at all, not extrapolation, so 80 % of ``n`` points on land
    train and the others test at random. Chance is .5. The measure is ours.

    Args:
        embed: a function of positions (m, 2), lon/lat degrees, to vectors (m, d).
        sizes_km: of the squares. Squares smaller than the spacing of the points, about 12,200 / sqrt(n) km on land,
            are at chance for any embedding.
    """
    from geonb.data.sampling import land_points
    from geonb.evaluation.probes import RidgeProbe

    points = land_points(n, 0)
    x, train = np.asarray(embed(points), np.float64), np.random.default_rng(0).permutation(n) < 0.8 * n
    probe = RidgeProbe(x[train], points[train])
    accuracies = []
    for size in sizes_km:
        color = checkerboard(points, size).astype(str)
        predicted, _ = probe.predict(color[train], x[~train], "classification")
        accuracies.append(np.mean(predicted == color[~train]))
    return np.array(accuracies)


def resolution_km(sizes_km: ArrayLike, accuracies: ArrayLike) -> float:
    """Find the smallest square whose color is predicted with accuracy .75, as are those of all larger squares.

    Interpolates between sizes (s,) on a logarithmic axis; NaN if not even the largest is. A measure of this book.
    """
    order = np.argsort(sizes_km)[::-1]
    size, accuracy = np.log(np.asarray(sizes_km, np.float64)[order]), np.asarray(accuracies, np.float64)[order]
    below = np.flatnonzero(accuracy < RESOLVED)
    if not len(below):
        return float(np.exp(size[-1]))
    if (i := below[0]) == 0:
        return float("nan")
    share = (accuracy[i - 1] - RESOLVED) / (accuracy[i - 1] - accuracy[i])
    return float(np.exp(size[i - 1] + share * (size[i] - size[i - 1])))


def similar_beyond(embeddings: ArrayLike, lonlat: ArrayLike, min_km: float, k: int = 50) -> np.ndarray:
    """Find the k places (n, k) whose embeddings are most similar to each place's, among those at least ``min_km`` away.

    The most similar comes first. Nearby places are similar to any smooth location encoder, whatever it was bound to;
    the distant places that it finds similar show what else it has learned. A measure of this book.

    Args:
        embeddings: unit vectors (n, d); compared by their dot product.
        lonlat: positions (n, 2), degrees.

    Raises:
        ValueError: shapes that do not match, or a place with fewer than k others beyond that distance.
    """
    z, xyz = np.asarray(embeddings, np.float32), unit_xyz(lonlat)
    if z.ndim != 2 or len(z) != len(xyz):
        raise ValueError(f"embeddings of shape {z.shape} and {len(xyz)} positions do not match; give (n, d) and (n, 2)")
    far, found = np.cos(min(min_km / EARTH_RADIUS_KM, np.pi)), np.empty((len(z), k), np.int64)
    for start in range(0, len(z), CHUNK):
        part = slice(start, start + CHUNK)
        allowed = xyz[part] @ xyz.T <= far
        if (fewest := int(allowed.sum(1).min())) < k:
            raise ValueError(f"a place has only {fewest} others {min_km:,.0f} km away or more; ask for fewer than {k}")
        similarity = np.where(allowed, z[part] @ z.T, -np.inf)
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(-similarity, near, 1).argsort(1, kind="stable")
        found[part] = np.take_along_axis(near, order, 1)
    return found
