"""Choose where to look: points even by area, and weights that make a crowded table even by area.

All that the module knows about the Earth is a land mask of 0.1 degrees (assets/SOURCES.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike

from geonb.geo import blocks, cell_bounds, cell_grid, check_lonlat

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


def random_points(n: int, seed: int = 0) -> np.ndarray:
    """Draw n positions (n, 2), degrees, even by area: uniform in longitude and sin(latitude)."""
    u = np.random.default_rng(seed).random((n, 2))
    return np.stack([360 * u[:, 0] - 180, np.degrees(np.arcsin(2 * u[:, 1] - 1))], 1)


def fibonacci_points(n: int) -> np.ndarray:
    """Lay n positions (n, 2), degrees, on a Fibonacci lattice: nearly even spacing, not random.

    Source: Gonzalez (2010), doi 10.1007/s11004-009-9257-x
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
    """Draw n positions (n, 2), degrees, on land, even by area.

    Args:
        method: "random", or "fibonacci" for nearly even spacing; another is a ValueError.

    Example:
        >>> land_points(1000)[:2].round(1).tolist()
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


def land_share(cells: Sequence | np.ndarray, size_km: float, points: int = 100) -> np.ndarray:
    """Estimate the share of land (n,) of equal-area cells from evenly spread ``points`` in each.

    Source: R2 of Roberts (2018), The unreasonable effectiveness of quasirandom sequences.
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
    """List the numbers (n,) of the equal-area cells of a size that are at least half land."""
    cells = np.arange(cell_grid(size_km)[0].sum())
    return cells[land_share(cells, size_km) >= 0.5]


def _in_cells(cells: np.ndarray, size_km: float, u: np.ndarray) -> np.ndarray:
    """Find a position (n, 2) in each cell from u (n, 2) in [0, 1), even by area."""
    west, south, east, north = cell_bounds(cells, size_km).T
    low, high = np.sin(np.radians(south)), np.sin(np.radians(north))
    lat = np.degrees(np.arcsin(np.clip(low + u[:, 1] * (high - low), -1, 1)))
    return np.stack([np.clip(west + u[:, 0] * (east - west), -180, 180), lat], 1)


def density_weights(lonlat: ArrayLike, size_km: float = 500.0) -> np.ndarray:
    """Compute weights (n,), mean 1, that give every occupied cell of ``size_km`` the same total.

    Args:
        lonlat: positions (n, 2), degrees.
        size_km: width of equal-area cells; larger ones even out larger crowds.
    """
    _, cell, counts = np.unique(blocks(lonlat, size_km), return_inverse=True, return_counts=True)
    weights = 1.0 / counts[cell]
    return weights * (len(weights) / weights.sum())


def weighted_sample(weights: ArrayLike, k: int, seed: int = 0) -> np.ndarray:
    """Draw k different rows, sorted, with chances in proportion to weights (n,) from 0 on.

    Fewer than k weights above 0 are a ValueError.

    Source: Efraimidis and Spirakis (2006), doi 10.1016/j.ipl.2005.11.003
    """
    weights = np.asarray(weights, dtype=np.float64)
    if k > np.count_nonzero(weights):
        raise ValueError(f"cannot draw {k} rows of {np.count_nonzero(weights)} with a weight above 0")
    with np.errstate(divide="ignore"):
        keys = np.random.default_rng(seed).exponential(size=len(weights)) / weights
    return np.sort(np.argsort(keys, kind="stable")[:k])


@cache
def _land_mask() -> np.ndarray:
    """Load the land mask (rows from north to south, columns from 180 W eastward)."""
    with (files("geonb.data") / "assets" / "land_mask.npz").open("rb") as stream, np.load(stream) as stored:
        shape = tuple(stored["shape"])
        return np.unpackbits(stored["bits"], count=shape[0] * shape[1]).reshape(shape).astype(bool)
