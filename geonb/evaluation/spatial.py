"""Statistics that know where their values are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from geonb.data.splits import blocks
from geonb.geo import EARTH_RADIUS_KM, check_lonlat, unit_xyz

DRAWN_AT_ONCE = 4_000_000  # weights (draws x places) of the bootstrap held at a time; bounds the memory
MIN_BLOCKS = 6  # blocks without which there is no interval


def morans_i(values: ArrayLike, lonlat: ArrayLike, k: int = 8) -> float:
    """Moran's I of values (n,) at positions (n, 2) in degrees, with equal weights on each place's k nearest
    neighbours on the sphere.

    Near 0 (exactly -1 / (n - 1) in expectation) when values know nothing of their neighbours, near 1 when
    neighbours are alike (Moran, 1950, doi:10.2307/2332142).

    Raises:
        ValueError: no more than k places, or values that are all the same or not finite.

    Example:
        Latitude knows its neighbours, noise does not:

        >>> import numpy as np
        >>> from geonb.evaluation.spatial import morans_i
        >>> rng = np.random.default_rng(0)
        >>> lonlat = rng.uniform((-180, -60), (180, 60), (2000, 2))
        >>> round(morans_i(lonlat[:, 1], lonlat), 1), abs(round(morans_i(rng.random(2000), lonlat), 1))
        (1.0, 0.0)
    """
    deviation, neighbours = _moran_terms(values, lonlat, k)
    return _moran(deviation, neighbours)


def morans_i_test(
    values: ArrayLike, lonlat: ArrayLike, k: int = 8, permutations: int = 99, seed: int = 0
) -> tuple[float, float]:
    """Moran's I (Moran, 1950) of values (n,) at positions (n, 2) in degrees, and how many standard deviations it lies
    above that of the same values shuffled over the places."""
    deviation, neighbours = _moran_terms(values, lonlat, k)
    rng = np.random.default_rng(seed)
    shuffled = [_moran(rng.permutation(deviation), neighbours) for _ in range(permutations)]
    observed = _moran(deviation, neighbours)
    return observed, float((observed - np.mean(shuffled)) / np.std(shuffled))


def _moran_terms(values: ArrayLike, lonlat: ArrayLike, k: int) -> tuple[np.ndarray, np.ndarray]:
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


def block_bootstrap(
    lonlat: ArrayLike,
    statistic: Callable[..., np.ndarray],
    size_km: float = 500.0,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """A percentile interval for a statistic of places, by resampling whole spatial blocks with replacement: near places
    are not independent, which is why Roberts et al. (2017) cross-validate by blocks.

    Args:
        lonlat: positions (n, 2) in degrees.
        statistic: a function of weights (m, n), how often each place was drawn in each of m draws; returns m numbers.
        size_km: blocks should be no smaller than the correlation range of what is measured.

    Returns:
        (low, high); NaN where the places fill fewer than :data:`MIN_BLOCKS` blocks. All of b independent values lie on
        one side of their median with probability 2^(1 - b), which is above 5 % up to 5 blocks: not even their whole
        range would be a 95 % interval, and of one block every draw is the sample itself.
    """
    _, block = np.unique(blocks(lonlat, size_km), return_inverse=True)
    count = block.max() + 1
    if count < MIN_BLOCKS:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    step = max(1, DRAWN_AT_ONCE // len(block))
    values = [statistic(drawn[i : i + step][:, block].astype(np.float64)) for i in range(0, draws, step)]
    low, high = np.nanquantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_or_none(
    lonlat: ArrayLike, statistic: Callable[..., np.ndarray], size_km: float, seed: int = 0
) -> list[float | None]:
    """[low, high] of :func:`block_bootstrap` (Roberts et al., 2017) at positions (n, 2), degrees, as JSON can hold it:
    None where it is NaN."""
    return [finite_or_none(end) for end in block_bootstrap(lonlat, statistic, size_km, seed=seed)]


def finite_or_none(value: float) -> float | None:
    """None where a number is not finite, which JSON has no word for."""
    return float(value) if np.isfinite(value) else None


def weighted_median(values: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Medians (m,) of values (n,) that occur as often as weights (m, n) say; the lower one when two tie."""
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    return np.asarray(values)[order][(reached >= reached[:, -1:] / 2).argmax(1)]


def similarity_by_distance(
    embeddings: ArrayLike,
    lonlat: Sequence | np.ndarray,
    edges_km: Sequence | np.ndarray,
    pairs: int = 200_000,
    seed: int = 0,
) -> np.ndarray:
    """Mean cosine similarity of pairs of places, by the great-circle distance between them: how far the law of Tobler
    (1970), that near things are more related than distant ones, holds in a space.

    Args:
        embeddings: unit vectors (n, d). ``lonlat``: positions (n, 2) in degrees.
        edges_km: increasing edges (b + 1,) of the distance bins.
        pairs: pairs drawn at random, to which each place's 10 nearest are added.

    Returns:
        Means (b,); NaN in a bin without pairs.
    """
    z = np.asarray(embeddings)
    i, j, bins = _pairs(lonlat, edges_km, pairs, seed)
    return _bin_means(np.einsum("ij,ij->i", z[i], z[j]), bins, len(edges_km) - 1)[0]


def variogram(
    values: Sequence | np.ndarray,
    lonlat: Sequence | np.ndarray,
    edges_km: Sequence | np.ndarray,
    pairs: int = 200_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Semivariance of values (n,) or embeddings (n, d) by distance: half the mean squared difference of two places,
    summed over dimensions (Matheron, 1963). It rises from the nugget, what differs between coincident places, to the
    sill, the variance of places that know nothing of each other; for unit vectors it is 1 minus the mean cosine.

    Args:
        lonlat, edges_km, pairs: as in :func:`similarity_by_distance`.

    Returns:
        (semivariance (b,), NaN in a bin without pairs; number of pairs (b,)).
    """
    z = np.asarray(values, np.float64).reshape(len(values), -1)
    i, j, bins = _pairs(lonlat, edges_km, pairs, seed)
    return _bin_means(0.5 * ((z[i] - z[j]) ** 2).sum(1), bins, len(edges_km) - 1)


def _pairs(
    lonlat: Sequence | np.ndarray, edges_km: Sequence | np.ndarray, pairs: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows i and j of pairs of different places, and the distance bin of each; those outside all bins are left out."""
    edges = np.asarray(edges_km, np.float64)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError(f"edges_km must increase, and be 2 or more, not {edges_km}")
    rng = np.random.default_rng(seed)
    xyz, n = unit_xyz(lonlat), len(lonlat)
    i, j = rng.integers(0, n, (2, pairs))
    _, near = cKDTree(xyz).query(xyz, k=min(11, n))
    i, j = np.concatenate([i, np.repeat(np.arange(n), near.shape[1])]), np.concatenate([j, near.ravel()])
    i, j = i[i != j], j[i != j]
    chord = np.linalg.norm(xyz[i] - xyz[j], axis=1)
    bins = np.digitize(2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1)), edges) - 1
    inside = (bins >= 0) & (bins < len(edges) - 1)
    return i[inside], j[inside], bins[inside]


def _bin_means(values: ArrayLike, bins: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    count = np.bincount(bins, minlength=n)
    total = np.bincount(bins, values, minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def checkerboard(lonlat: ArrayLike, size_km: float) -> np.ndarray:
    """0 or 1 for each position (n, 2), degrees: the colour of its square on a sphere chequered by ``size_km``.

    Rows are ``size_km`` high; each has an even number of squares, as wide as they are high in its middle, so colours
    alternate across the antimeridian too. A chequered sphere is the toy problem of Rußwurm et al. (2024, arXiv
    2310.06743); the squares are ours.

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
    embed: Callable[[np.ndarray], np.ndarray], sizes_km: Sequence | np.ndarray, n: int = 4000, seed: int = 0
) -> np.ndarray:
    """Accuracy (s,) with which a linear probe of an embedding tells the colours of checkerboards of each size: after
    the toy problem of Rußwurm et al. (2024, arXiv 2310.06743), with our own squares, see :func:`checkerboard`.

    It asks what patterns an embedding can hold at all, not whether it extrapolates, so 80 % of ``n`` points on land
    train and the others test at random. Chance is .5.

    Args:
        embed: a function of positions (m, 2), lon/lat degrees, to vectors (m, d).
        sizes_km: of the squares. Squares smaller than the spacing of the points, about 12,200 / sqrt(n) km on land,
            cannot be told by any embedding that has not seen them.
    """
    from geonb.data.sampling import land_points
    from geonb.evaluation.probes import RidgeProbe

    points = land_points(n, seed)
    x, train = np.asarray(embed(points), np.float64), np.random.default_rng(seed).permutation(n) < 0.8 * n
    probe = RidgeProbe(x[train], points[train])
    found = []
    for size in sizes_km:
        colour = checkerboard(points, size).astype(str)
        found.append(probe.probe(colour[train], x[~train], colour[~train], "classification").score)
    return np.array(found)


def resolution_km(sizes_km: ArrayLike, accuracies: ArrayLike, level: float = 0.75) -> float:
    """The smallest square that is told with accuracy ``level``, as are all larger ones, between sizes interpolated on a
    logarithmic axis; NaN if not even the largest is. A measure of this book.

    Args:
        sizes_km, accuracies: (s,), as :func:`checkerboard_accuracy` takes and gives them.
    """
    order = np.argsort(sizes_km)[::-1]
    size, accuracy = np.log(np.asarray(sizes_km, np.float64)[order]), np.asarray(accuracies, np.float64)[order]
    if accuracy[0] < level:
        return float("nan")
    below = np.flatnonzero(accuracy < level)
    if not len(below):
        return float(np.exp(size[-1]))
    i = below[0]
    share = (accuracy[i - 1] - level) / (accuracy[i - 1] - accuracy[i])
    return float(np.exp(size[i - 1] + share * (size[i] - size[i - 1])))


def alike_beyond(embeddings: ArrayLike, lonlat: ArrayLike, min_km: float, k: int = 50, chunk: int = 1024) -> np.ndarray:
    """Rows (n, k) of the k places that each place's embedding is most alike among those at least ``min_km`` away; a
    measure of this book.

    Near places are alike to any smooth location encoder, whatever it was bound to. What it was taught beyond that shows
    in which *far* places it takes for alike.

    Args:
        embeddings: unit vectors (n, d); compared by their dot product. The most alike comes first.
        lonlat: positions (n, 2), degrees.

    Raises:
        ValueError: shapes that do not match, or a place with fewer than k others beyond that distance.
    """
    z, xyz = np.asarray(embeddings, np.float32), unit_xyz(lonlat)
    if z.ndim != 2 or len(z) != len(xyz):
        raise ValueError(f"embeddings of shape {z.shape} and {len(xyz)} positions do not match; give (n, d) and (n, 2)")
    far, found = np.cos(min(min_km / EARTH_RADIUS_KM, np.pi)), np.empty((len(z), k), np.int64)
    for start in range(0, len(z), chunk):
        own = slice(start, start + chunk)
        allowed = xyz[own] @ xyz.T <= far
        if (fewest := int(allowed.sum(1).min())) < k:
            raise ValueError(f"a place has only {fewest} others {min_km:,.0f} km away or more; ask for fewer than {k}")
        similarity = np.where(allowed, z[own] @ z.T, -np.inf)
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(-similarity, near, 1).argsort(1, kind="stable")
        found[own] = np.take_along_axis(near, order, 1)
    return found


def share_alike(rows: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Share of each place's alike places, ``rows`` (n, k) of :func:`alike_beyond`, that have its own label; float64
    (n,) of 0 to 1, NaN where the label, a string, is empty. A measure of this book.

    Raises:
        ValueError: not one label for each row.
    """
    rows, labels = np.asarray(rows), np.asarray(labels, str)
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows of alike places and {len(labels)} labels; give one label for each place")
    return np.where(labels != "", np.mean(labels[rows] == labels[:, None], axis=1), np.nan)


def density(lonlat: ArrayLike, has: ArrayLike, radius_km: float = 250.0) -> np.ndarray:
    """How many places that have something (a text, say: ``has``, bool (n,)) lie within a radius of each of all
    the places at positions (n, 2) in degrees; int64 (n,)."""
    xyz, chord = unit_xyz(lonlat), 2 * np.sin(min(radius_km / EARTH_RADIUS_KM, np.pi) / 2)
    has = np.asarray(has, bool)
    if not has.any():
        return np.zeros(len(xyz), np.int64)
    return cKDTree(xyz[has]).query_ball_point(xyz, chord, return_length=True)


def quantile_groups(values: ArrayLike, groups: int = 4) -> np.ndarray:
    """A label for each value (n,), "1: 0 to 12" for the lowest: groups of about equal size, equal values together."""
    values = np.asarray(values, np.float64)
    edges = np.quantile(values, np.linspace(0, 1, groups + 1)[1:-1])
    group = np.searchsorted(edges, values, side="left")
    labels = np.empty(len(values), object)
    for number, g in enumerate(np.unique(group), 1):
        own = values[group == g]
        labels[group == g] = f"{number}: {own.min():g} to {own.max():g}"
    return labels


def by_group(
    values: ArrayLike, groups: ArrayLike, lonlat: ArrayLike, size_km: float = 500.0, least: int = 20, seed: int = 0
) -> list[dict]:
    """The mean of values (n,) (errors, or hits) in each group of places (n,), with its 95 % interval by blocks of
    positions (n, 2), degrees (:func:`block_bootstrap`).

    Returns:
        Dicts with ``group``, ``mean``, ``low``, ``high``, ``n`` and ``enough``, lowest mean first; groups of fewer than
        ``least`` places, or of too few blocks for an interval, come last: their means are accidents, and none of them
        is the worst or best region.
    """
    values, groups, lonlat = np.asarray(values, np.float64), np.asarray(groups, object), np.asarray(lonlat)
    rows = []
    for group in sorted({g for g in groups if g is not None}):
        own = groups == group
        low, high = block_bootstrap(lonlat[own], lambda w, v=values[own]: w @ v / w.sum(1), size_km, seed=seed)
        n = int(own.sum())
        row = {"group": group, "mean": float(values[own].mean()), "low": low, "high": high, "n": n}
        rows.append(row | {"enough": n >= least and not np.isnan(low)})
    return sorted(rows, key=lambda r: (not r["enough"], r["mean"]))
