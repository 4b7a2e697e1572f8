"""Splits that respect space: near places resemble each other, so a random split tests on what it has trained on.

Roberts et al. (2017), Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
structure, Ecography 40, 913-929.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import EARTH_RADIUS_KM, check_lonlat, great_circle_km, unit_xyz

LABELS = ("train", "val", "test")
ROUNDING = 1e-9  # relative slack, so that a place at exactly the buffer's distance counts as inside


def blocks(lonlat: ArrayLike, size_km: float) -> np.ndarray:
    """The equal-area cell (n,) of each position (n, 2), degrees; cells are about ``size_km`` wide and high everywhere.

    Parallels cut the sphere into bands; a band of k cells spans k equal steps in longitude, and the bands' edges
    lie where the sine of latitude makes all cells exactly equal in area (Lambert's cylindrical equal-area map has
    its rows in sin(latitude)). Cells begin at the antimeridian, so none crosses it, and 180 is the same as -180.
    The caps at the poles are single cells.

    Raises:
        ValueError: a position out of range, or a size that is not positive.

    Example:
        Two places near Cologne lie in one cell, New York in another.

        >>> blocks([(7.0, 50.9), (7.1, 51.0), (-74.0, 40.7)], size_km=500).tolist()
        [1817, 1817, 1696]
    """
    lonlat = check_lonlat(lonlat)
    columns, edges = _grid(size_km)
    band = np.searchsorted(edges[1:-1], np.sin(np.radians(lonlat[:, 1])), side="right")
    k = columns[band]
    column = np.floor((lonlat[:, 0] + 180) / 360 * k).astype(np.int64) % k
    return np.concatenate([[0], np.cumsum(columns)])[band] + column


def _grid(size_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells in each band (south to north) and the bands' edges in sin(latitude)."""
    if not size_km > 0:
        raise ValueError(f"size_km must be positive, not {size_km}")
    rows = max(2, round(np.pi * EARTH_RADIUS_KM / size_km))
    middle = np.radians(-90 + (np.arange(rows) + 0.5) * 180 / rows)
    columns = np.maximum(1, np.round(2 * rows * np.cos(middle))).astype(np.int64)
    columns[[0, -1]] = 1
    return columns, np.concatenate([[-1.0], -1 + 2 * np.cumsum(columns) / columns.sum()])


def random_split(n: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> np.ndarray:
    """ "train", "val" or "test" (n,) for each of n places, at random whatever their position.

    Use it beside :func:`blocked_split` to show how much a score owes to neighbours.

    Raises:
        ValueError: fractions of train, val and test that are not three, negative, or do not sum to 1.
    """
    fractions = _check_fractions(fractions)
    edges = np.round(np.cumsum(fractions) * n).astype(int)
    label = np.searchsorted(edges, np.arange(n), side="right")
    return np.array(LABELS)[np.minimum(label, 2)][np.random.default_rng(seed).permutation(n)]


def blocked_split(
    lonlat: ArrayLike,
    size_km: float = 500.0,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    buffer_km: float = 50.0,
    seed: int = 0,
) -> np.ndarray:
    """ "train", "val", "test" or "buffer" (n,) for each place: whole blocks go to one label, with a gap between labels.

    Blocks are dealt in random order, each to the label that still lacks most places. Then "val" places within
    ``buffer_km`` of a "test" place, and "train" places within it of a "val" or "test" place, become "buffer" and
    are used for nothing.

    Args:
        lonlat: positions (n, 2), degrees.
        size_km: edge of the blocks; choose it no smaller than :func:`correlation_range_km`.
        fractions: of places for train, val and test, before the buffer takes its share.
        buffer_km: least great-circle distance between places of different labels.

    Raises:
        ValueError: positions or fractions out of range, fewer occupied blocks than labels, or a label that gets no
            place because few blocks hold nearly all.

    Example:
        >>> from geonb.data.sampling import land_points
        >>> label = blocked_split(land_points(2000), size_km=500, buffer_km=50)
        >>> names, counts = np.unique(label, return_counts=True)
        >>> dict(zip(names.tolist(), counts.tolist()))
        {'buffer': 4, 'test': 399, 'train': 1396, 'val': 201}
    """
    lonlat, fractions = check_lonlat(lonlat), _check_fractions(fractions)
    names, block, counts = np.unique(blocks(lonlat, size_km), return_inverse=True, return_counts=True)
    advice = (
        "choose smaller blocks or a random split, in a config's split: {kind: blocked, size_km: 30, buffer_km: 3} or "
        "{kind: random}"
    )
    if len(names) < np.count_nonzero(fractions):
        raise ValueError(f"the places fill only {len(names)} blocks of {size_km:g} km; {advice}")
    lacks = fractions * len(lonlat)
    owner = np.empty(len(names), dtype=np.int64)
    for i in np.random.default_rng(seed).permutation(len(names)):
        owner[i] = np.argmax(lacks)
        lacks[owner[i]] -= counts[i]
    without = [name for i, name in enumerate(LABELS) if fractions[i] > 0 and i not in owner]
    if without:
        raise ValueError(
            f"no place is left for {' and '.join(without)}: a single block of {size_km:g} km holds {counts.max():,} of "
            f"{len(lonlat):,} places; {advice}"
        )
    label = np.array(LABELS, dtype="<U6")[owner[block]]
    val, test = label == "val", label == "test"
    label[val & within(lonlat, lonlat[test], buffer_km)] = "buffer"
    held = lonlat[(label == "val") | test]
    label[(label == "train") & within(lonlat, held, buffer_km)] = "buffer"
    return label


def held_out_split(labels: ArrayLike, value: object, lonlat: ArrayLike, buffer_km: float = 50.0) -> np.ndarray:
    """ "test" where ``labels`` (n,) equal ``value`` (a continent, say), "buffer" near those, "train" elsewhere.

    Positions are (n, 2), degrees.

    Raises:
        ValueError: no place, or every place, has the value.
    """
    lonlat, labels = check_lonlat(lonlat), np.asarray(labels, dtype=object)
    test = labels == value
    if not test.any() or test.all():
        known = ", ".join(sorted({str(v) for v in labels if v is not None})[:12])
        raise ValueError(f"{'every' if test.all() else 'no'} place has {value!r}; there are {known}")
    label = np.where(test, "test", "train").astype("<U6")
    label[~test & within(lonlat, lonlat[test], buffer_km)] = "buffer"
    return label


def within(lonlat: Sequence | np.ndarray, others: Sequence | np.ndarray, km: float) -> np.ndarray:
    """Which positions (n, 2), degrees, lie at most ``km`` from any of ``others``, along great circles.

    Raises:
        ValueError: a negative distance.

    Example:
        The first place lies 22 km from the other, across the antimeridian.

        >>> within([(179.9, 0), (0, 0)], [(-179.9, 0)], km=50).tolist()
        [True, False]
    """
    from scipy.spatial import KDTree

    if km < 0:
        raise ValueError(f"a distance cannot be negative: {km} km")
    if len(others) == 0 or km == 0:
        return np.zeros(len(lonlat), dtype=bool)
    chord = 2 * np.sin(min(km / EARTH_RADIUS_KM, np.pi) / 2) * (1 + ROUNDING)
    distance, _ = KDTree(unit_xyz(others)).query(unit_xyz(lonlat), distance_upper_bound=np.nextafter(chord, 4))
    return np.isfinite(distance)


def correlogram(
    lonlat: ArrayLike,
    values: ArrayLike,
    bin_km: float = 100.0,
    max_km: float = 5000.0,
    max_places: int = 3000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlation of values at places as a function of the great-circle distance between them.

    For numbers, the mean product of standardised values over the pairs in a bin. For classes, the share of pairs
    in the bin with equal class, rescaled so that 0 is the share among all pairs and 1 is always.

    Args:
        lonlat: positions (n, 2), degrees.
        values: (n,) numbers, NaN where not known, or classes, None where not known.
        bin_km: width of the bins. ``max_km``: pairs farther apart are left out.
        max_places: see below. ``seed``: of the sample.

    Returns:
        (bin centres in km, correlation, number of pairs), each (bins,); the correlation is NaN in empty bins.
        Of more than ``max_places`` places with a value a random sample is used.

    Raises:
        ValueError: positions out of range, not as many values, fewer than three that are known, or all equal.
    """
    lonlat, values = check_lonlat(lonlat), np.asarray(values)
    if len(values) != len(lonlat):
        raise ValueError(f"{len(values)} values for {len(lonlat)} places")
    classes = values.dtype.kind not in "biuf"
    known = np.array([v is not None for v in values]) if classes else np.isfinite(values.astype(np.float64))
    rows = np.flatnonzero(known)
    if len(rows) < 3:
        raise ValueError(f"only {len(rows)} places have a value; a correlation needs more")
    if len(rows) > max_places:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_places, replace=False))
    lonlat = lonlat[rows]
    if classes:
        codes, counts = np.unique(values[rows].astype(str), return_inverse=True, return_counts=True)[1:]
        chance = float((counts * (counts - 1)).sum() / (len(rows) * (len(rows) - 1)))
        spread = 1 - chance
    else:
        z = values[rows].astype(np.float64)
        z, spread = z - z.mean(), z.std()
    if spread == 0:
        raise ValueError("all values are equal; they have no correlation")
    edges = np.arange(0, max_km + bin_km / 2, bin_km)
    total, pairs = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for i in range(len(rows) - 1):
        bins = (great_circle_km(lonlat[i], lonlat[i + 1 :]) / bin_km).astype(np.int64)
        near = bins < len(total)
        product = (codes[i] == codes[i + 1 :]) - chance if classes else z[i] * z[i + 1 :] / spread
        total += np.bincount(bins[near], product[near] / spread, len(total))
        pairs += np.bincount(bins[near], minlength=len(total))
    with np.errstate(invalid="ignore"):
        return (edges[:-1] + edges[1:]) / 2, total / pairs, pairs.astype(np.int64)


def correlation_range_km(
    lonlat: ArrayLike, values: ArrayLike, bin_km: float = 100.0, max_km: float = 5000.0, seed: int = 0
) -> float:
    """The distance in km over which values at places are alike: choose blocks no smaller than it.

    The rule: the first distance at which the :func:`correlogram` falls below 1/e of its value in the first bin
    with 30 pairs or more, interpolated between bin centres (for an exponential correlation exp(-h/L) without
    nugget this is L, plus the first bin's centre). Dividing by the first bin leaves out the nugget, that is noise
    at single places. It is 0 when even that first bin's correlation is below 0.05, and ``max_km`` when the
    correlogram never falls that low. Arguments are those of
    :func:`correlogram`: positions (n, 2), degrees, and values (n,).

    Raises:
        ValueError: no bin has 30 pairs of places, or as for :func:`correlogram`.
    """
    centre, rho, pairs = correlogram(lonlat, values, bin_km, max_km, seed=seed)
    use = pairs >= 30
    if not use.any():
        raise ValueError(f"no bin of {bin_km:g} km has 30 pairs of places; choose wider bins or more places")
    centre, rho = centre[use], rho[use]
    if rho[0] < 0.05:
        return 0.0
    low = rho < rho[0] / np.e
    if not low.any():
        return float(max_km)
    i = int(np.argmax(low))
    step = (rho[i - 1] - rho[0] / np.e) / (rho[i - 1] - rho[i])
    return float(centre[i - 1] + step * (centre[i] - centre[i - 1]))


def _check_fractions(fractions: Sequence[float]) -> np.ndarray:
    values = np.asarray(fractions, dtype=np.float64)
    if values.shape != (3,) or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
        raise ValueError(f"fractions of train, val and test must be three numbers from 0 on that sum to 1: {fractions}")
    return values
