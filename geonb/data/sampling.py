"""Choose where to look: points even by area, points near articles, and weights that make a crowded table even by area.

The land mask is a grid of 0.1 degrees (see assets/SOURCES.md); the module knows nothing else about the Earth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import EARTH_RADIUS_KM, blocks, cell_bounds, cell_grid, check_lonlat, unit_xyz

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
DENSITY_KM = 100.0


def random_points(n: int, seed: int = 0) -> np.ndarray:
    """Draw n positions (n, 2), degrees, uniform by area on the sphere (uniform in longitude and sin(latitude))."""
    u = np.random.default_rng(seed).random((n, 2))
    return np.stack([360 * u[:, 0] - 180, np.degrees(np.arcsin(2 * u[:, 1] - 1))], 1)


def fibonacci_points(n: int) -> np.ndarray:
    """Lay n positions (n, 2), degrees, on a Fibonacci lattice: nearly even spacing, no randomness.

    Gonzalez (2010), Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices,
    Mathematical Geosciences 42, 49-64 (doi:10.1007/s11004-009-9257-x).
    """
    i = np.arange(n) + 0.5
    return np.stack([(360 * i / GOLDEN_RATIO) % 360 - 180, np.degrees(np.arcsin(2 * i / n - 1))], 1)


def on_land(lonlat: ArrayLike) -> np.ndarray:
    """Tell which positions (n,) are on land, Antarctica included."""
    lonlat = check_lonlat(lonlat)
    mask = _land_mask()
    rows, columns = mask.shape
    row = np.minimum(((90 - lonlat[:, 1]) / 180 * rows).astype(np.int64), rows - 1)
    column = ((lonlat[:, 0] + 180) / 360 * columns).astype(np.int64) % columns
    return mask[row, column]


def land_points(n: int, seed: int = 0, method: str = "random") -> np.ndarray:
    """Draw n positions (n, 2), degrees, on land, even by area: "random", or close to evenly spaced with "fibonacci".

    A Fibonacci lattice is made as dense as gives n points or a few more on land; of those the surplus is dropped
    at random.

    Raises:
        ValueError: an unknown method.

    Example:
        >>> points = land_points(1000)
        >>> points.shape, bool(on_land(points).all())
        ((1000, 2), True)
        >>> points[:2].round(1).tolist()
        [[112.8, 55.6], [38.4, 27.3]]
    """
    if method not in ("random", "fibonacci"):
        raise ValueError(f"unknown method {method!r}; choose random or fibonacci")
    total = max(64, 4 * n)
    while True:
        points = random_points(total, seed) if method == "random" else fibonacci_points(total)
        points = points[on_land(points)]
        if len(points) >= n:
            break
        total = math.ceil(total * 1.05)
    if method == "random":
        return points[:n]
    return points[np.sort(np.random.default_rng(seed).permutation(len(points))[:n])]


def density_points(lonlat: ArrayLike, n: int, seed: int = 0) -> np.ndarray:
    """Draw n positions (n, 2) on land, more of them where there are more articles (or photographs, or towns).

    An equal-area cell of :data:`DENSITY_KM` is drawn with a chance in proportion to the articles in it, then a point in
    it, even by area over its land. :func:`points_around` draws near each article instead.

    Args:
        lonlat: positions (m, 2) of the articles, degrees. Cells without land are left out.
        seed: the same gives the same points.

    Raises:
        ValueError: no article in a cell with land.
    """
    cells, counts = np.unique(blocks(lonlat, DENSITY_KM), return_counts=True)
    land = land_share(cells, DENSITY_KM) > 0
    if not land.any():
        raise ValueError("no position lies in a cell with land; are they (lon, lat)?")
    cells, chance = cells[land], counts[land].astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = cells[rng.choice(len(cells), n, p=chance / chance.sum())]
    points, missing = np.empty((n, 2)), np.arange(n)
    while len(missing):
        points[missing] = _in_cells(drawn[missing], DENSITY_KM, rng.random((len(missing), 2)))
        missing = missing[~on_land(points[missing])]
    return points


def points_around(lonlat: ArrayLike, per_place: int, max_km: float, seed: int = 0) -> np.ndarray:
    """Draw positions (n x per_place, 2) around each of n places, even by area within ``max_km``, place by place.

    Discs are as round and as large at the poles and across the antimeridian as on the equator. Points may lie at sea.

    Args:
        lonlat: positions (n, 2) of the places, degrees.
        per_place: how many around each.
        max_km: radius of the disc, up to half of the Earth's circumference (20,015 km).
        seed: the same gives the same points.

    Raises:
        ValueError: positions out of range, or a radius that is not above 0 or too large.
    """
    lonlat, half = check_lonlat(lonlat), math.pi * EARTH_RADIUS_KM
    if not 0 < max_km <= half:
        raise ValueError(f"max_km must be above 0 and at most {half:,.0f}, not {max_km}")
    u = np.random.default_rng(seed).random((len(lonlat) * per_place, 2))
    # The area within an angle grows with the squared sine of its half. A hair less, so that rounding stays inside.
    angle = 2 * np.arcsin(np.sqrt(u[:, 0]) * math.sin(max_km / EARTH_RADIUS_KM / 2)) * (1 - 1e-9)
    bearing = 2 * np.pi * u[:, 1]
    lon, lat = np.radians(np.repeat(lonlat, per_place, axis=0)).T
    up = unit_xyz(np.repeat(lonlat, per_place, axis=0))
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], 1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], 1)
    aside = np.sin(bearing)[:, None] * east + np.cos(bearing)[:, None] * north
    x, y, z = (np.cos(angle)[:, None] * up + np.sin(angle)[:, None] * aside).T
    return np.degrees(np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))], 1))


def land_share(cells: Sequence | np.ndarray, size_km: float, points: int = 100) -> np.ndarray:
    """Estimate the share of land (n,) of equal-area cells from ``points`` spread evenly in each.

    The points are those of the R2 sequence (Roberts, 2018, The unreasonable effectiveness of quasirandom sequences).
    """
    plastic = 1.32471795724474602596  # x**3 = x + 1
    spread = (0.5 + np.arange(1, points + 1)[:, None] / [plastic, plastic**2]) % 1
    share = np.empty(len(cells))
    for start in range(0, len(cells), 10_000):
        some = np.repeat(np.asarray(cells)[start : start + 10_000], points)
        land = on_land(_in_cells(some, size_km, np.tile(spread, (len(some) // points, 1))))
        share[start : start + 10_000] = land.reshape(-1, points).mean(1)
    return share


@cache
def land_cells(size_km: float) -> np.ndarray:
    """List the equal-area cells of a size that are at least half land: their numbers (n,), in rising order."""
    cells = np.arange(cell_grid(size_km)[0].sum())
    return cells[land_share(cells, size_km) >= 0.5]


def _in_cells(cells: np.ndarray, size_km: float, u: np.ndarray) -> np.ndarray:
    """A position (n, 2) in each cell; u (n, 2) in [0, 1) says where, even by area."""
    west, south, east, north = cell_bounds(cells, size_km).T
    low, high = np.sin(np.radians(south)), np.sin(np.radians(north))
    lat = np.degrees(np.arcsin(np.clip(low + u[:, 1] * (high - low), -1, 1)))
    return np.stack([np.clip(west + u[:, 0] * (east - west), -180, 180), lat], 1)


def density_weights(lonlat: ArrayLike, size_km: float = 500.0) -> np.ndarray:
    """Compute sampling weights (n,), mean 1, that give each occupied equal-area cell of ``size_km`` the same total.

    Gazetteers and photographs crowd in Europe; sampling by these weights is even over the inhabited land instead.
    Positions are (n, 2), degrees.

    Raises:
        ValueError: a position out of range, or a size that is not positive.

    Example:
        Three places around Cologne share a cell, and together weigh as much as one in New York.

        >>> density_weights([(7.0, 50.9), (7.1, 51.0), (6.9, 50.8), (-74.0, 40.7)]).round(2).tolist()
        [0.67, 0.67, 0.67, 2.0]
    """
    _, cell, counts = np.unique(blocks(lonlat, size_km), return_inverse=True, return_counts=True)
    weights = 1.0 / counts[cell]
    return weights * (len(weights) / weights.sum())


def weighted_sample(weights: ArrayLike, k: int, seed: int = 0) -> np.ndarray:
    """Draw k different rows (sorted), one after another, with chances in proportion to weights (n,).

    By exponential keys: Efraimidis and Spirakis (2006), Weighted random sampling with a reservoir, Information
    Processing Letters 97, 181-185 (doi:10.1016/j.ipl.2005.11.003).

    Raises:
        ValueError: a weight that is negative or not finite, or fewer than k weights above 0.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if (weights < 0).any() or not np.isfinite(weights).all():
        raise ValueError("weights must be finite and not negative")
    if k > np.count_nonzero(weights):
        raise ValueError(f"cannot draw {k} rows of {np.count_nonzero(weights)} with a weight above 0")
    with np.errstate(divide="ignore"):
        keys = np.random.default_rng(seed).exponential(size=len(weights)) / weights
    return np.sort(np.argsort(keys, kind="stable")[:k])


@cache
def _land_mask() -> np.ndarray:
    """Land as booleans (rows from north to south, columns from 180 W eastward)."""
    with (files("geonb.data") / "assets" / "land_mask.npz").open("rb") as stream, np.load(stream) as stored:
        shape = tuple(stored["shape"])
        return np.unpackbits(stored["bits"], count=shape[0] * shape[1]).reshape(shape).astype(bool)
