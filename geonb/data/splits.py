"""Split places by their position: nearby places are similar, so a random split tests on near copies.

Source: Roberts et al. (2017), Ecography 40, 913-929.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import EARTH_RADIUS_KM, blocks, check_lonlat, great_circle_km, unit_xyz

LABELS = ("train", "val", "test")
ROUNDING = 1e-9  # relative slack, so that a place at exactly the buffer's distance is inside
BIN_KM, MAX_KM = 100.0, 5000.0  # width of a correlogram's bins, and its largest distance
MAX_PLACES = 3000  # of a correlogram, which takes all pairs


def random_split(n: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> np.ndarray:
    """Label n places "train", "val" or "test" (n,) at random, in ``fractions`` that sum to 1."""
    fractions = _check_fractions(fractions)
    edges = np.round(np.cumsum(fractions[:2]) * n).astype(int)
    label = np.searchsorted(edges, np.arange(n), side="right")
    return np.array(LABELS)[label][np.random.default_rng(seed).permutation(n)]


def blocked_split(
    lonlat: ArrayLike,
    size_km: float = 500.0,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    buffer_km: float = 50.0,
    seed: int = 0,
) -> np.ndarray:
    """Label places "train", "val", "test" or "buffer" (n,): one label a block, and a gap between labels.

    Blocks in random order each go to the label that lacks most places. Then "val" places near a
    "test" place and "train" places near either become "buffer": they are used for nothing.

    Args:
        lonlat: positions (n, 2), degrees.
        size_km: edge of the blocks, at least :func:`correlation_range_km`; larger ones test harder.
        fractions: of train, val and test, before the buffer takes its share.
        buffer_km: least great-circle distance between places of different labels.

    Raises:
        ValueError: positions or fractions out of range, or a label without a place.

    Example:
        >>> from geonb.data.sampling import land_points
        >>> label = blocked_split(land_points(2000), size_km=500, buffer_km=50)
        >>> np.unique(label, return_counts=True)[1].tolist()  # buffer, test, train, val
        [4, 399, 1396, 201]
    """
    lonlat, fractions = check_lonlat(lonlat), _check_fractions(fractions)
    names, block, counts = np.unique(blocks(lonlat, size_km), return_inverse=True, return_counts=True)
    lacks = fractions * len(lonlat)
    owner = np.empty(len(names), dtype=np.int64)
    for i in np.random.default_rng(seed).permutation(len(names)):
        owner[i] = np.argmax(lacks)
        lacks[owner[i]] -= counts[i]
    if without := [name for i, name in enumerate(LABELS) if fractions[i] > 0 and i not in owner]:
        raise ValueError(
            f"no place is left for {' and '.join(without)}: of {len(names)} blocks of {size_km:g} km one "
            f"holds {counts.max():,} of {len(lonlat):,} places; choose smaller blocks or a random split; "
            "in a config of `geonb train`, split: {kind: blocked, size_km: 30, buffer_km: 3} or {kind: random}"
        )
    label = np.array(LABELS, dtype="<U6")[owner[block]]
    val, test = label == "val", label == "test"
    label[val & within(lonlat, lonlat[test], buffer_km)] = "buffer"
    held = lonlat[(label == "val") | test]
    label[(label == "train") & within(lonlat, held, buffer_km)] = "buffer"
    return label


def within(lonlat: Sequence | np.ndarray, others: Sequence | np.ndarray, km: float) -> np.ndarray:
    """Tell which positions (n, 2), degrees, lie at most ``km`` from any of ``others``."""
    from scipy.spatial import KDTree

    if len(others) == 0 or km <= 0:
        return np.zeros(len(lonlat), dtype=bool)
    chord = 2 * np.sin(min(km / EARTH_RADIUS_KM, np.pi) / 2) * (1 + ROUNDING)
    tree, bound = KDTree(unit_xyz(others)), np.nextafter(chord, 4)
    distance, _ = tree.query(unit_xyz(lonlat), distance_upper_bound=bound)
    return np.isfinite(distance)


def correlogram(lonlat: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure how similar values at places are by distance, in bins of :data:`BIN_KM` to :data:`MAX_KM`.

    Args:
        lonlat: positions (n, 2), degrees. Of more than :data:`MAX_PLACES` a random sample is used.
        values: (n,) numbers, NaN where not known, or classes, None where not known.

    Returns:
        bin centres in km, correlations (NaN in empty bins) and numbers of pairs. For classes, the
        share of equal pairs is rescaled: 0 is their share among all pairs, 1 is always.

    Raises:
        ValueError: not as many values as positions, fewer than three known, or all equal.
    """
    lonlat, values = check_lonlat(lonlat), np.asarray(values)
    if len(values) != len(lonlat):
        raise ValueError(f"{len(values)} values for {len(lonlat)} places")
    classes = values.dtype.kind not in "biuf"
    known = [v is not None for v in values] if classes else np.isfinite(values.astype(np.float64))
    rows = np.flatnonzero(known)
    if len(rows) < 3:
        raise ValueError(f"only {len(rows)} places have a value; a correlation needs more")
    if len(rows) > MAX_PLACES:
        rows = np.sort(np.random.default_rng(0).choice(rows, MAX_PLACES, replace=False))
    lonlat = lonlat[rows]
    if classes:
        names = values[rows].astype(str)
        _, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
        chance = float((counts * (counts - 1)).sum() / (len(rows) * (len(rows) - 1)))
        spread = 1 - chance
    else:
        z = values[rows].astype(np.float64)
        z, spread = z - z.mean(), z.std()
    if spread == 0:
        raise ValueError("all values are equal; they have no correlation")
    edges = np.arange(0, MAX_KM + BIN_KM / 2, BIN_KM)
    total, pairs = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for i in range(len(rows) - 1):
        bins = (great_circle_km(lonlat[i], lonlat[i + 1 :]) / BIN_KM).astype(np.int64)
        near = bins < len(total)
        product = (codes[i] == codes[i + 1 :]) - chance if classes else z[i] * z[i + 1 :] / spread
        total += np.bincount(bins[near], product[near] / spread, len(total))
        pairs += np.bincount(bins[near], minlength=len(total))
    with np.errstate(invalid="ignore"):
        return (edges[:-1] + edges[1:]) / 2, total / pairs, pairs.astype(np.int64)


def correlation_range_km(lonlat: ArrayLike, values: ArrayLike) -> float:
    """Measure the distance in km over which values at places are similar: the least size of blocks.

    It is where the :func:`correlogram` falls below 1/e of its value in the first bin with 30 pairs
    (if any, else ValueError), which leaves out the noise at single places (the nugget). It is 0 when
    that value is below 0.05, and at most :data:`MAX_KM`.
    """
    centre, rho, pairs = correlogram(lonlat, values)
    use = pairs >= 30
    if not use.any():
        raise ValueError(f"no bin of {BIN_KM:g} km has 30 pairs of places; take more places")
    centre, rho = centre[use], rho[use]
    if rho[0] < 0.05:
        return 0.0
    low = rho < rho[0] / np.e
    if not low.any():
        return MAX_KM
    i = int(np.argmax(low))
    step = (rho[i - 1] - rho[0] / np.e) / (rho[i - 1] - rho[i])
    return float(centre[i - 1] + step * (centre[i] - centre[i - 1]))


def _check_fractions(fractions: Sequence[float]) -> np.ndarray:
    values = np.asarray(fractions, dtype=np.float64)
    if values.shape != (3,) or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
        raise ValueError(f"fractions must be three numbers from 0 on that sum to 1, not {fractions}")
    return values
