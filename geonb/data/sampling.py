"""Where to look: points that are fair to area, and weights that make a crowded table fair to area."""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import numpy as np

from geonb._coords import check_lonlat
from geonb.data.splits import blocks

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


def random_points(n: int, seed: int = 0) -> np.ndarray:
    """n positions (n, 2) in degrees, uniform by area on the sphere (uniform in longitude and sin(latitude))."""
    u = np.random.default_rng(seed).random((n, 2))
    return np.stack([360 * u[:, 0] - 180, np.degrees(np.arcsin(2 * u[:, 1] - 1))], 1)


def fibonacci_points(n: int) -> np.ndarray:
    """n positions (n, 2) in degrees on a Fibonacci lattice: nearly even spacing, no randomness.

    Gonzalez (2010), Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices,
    Mathematical Geosciences 42, 49-64.
    """
    i = np.arange(n) + 0.5
    return np.stack([(360 * i / GOLDEN_RATIO) % 360 - 180, np.degrees(np.arcsin(2 * i / n - 1))], 1)


def on_land(lonlat) -> np.ndarray:
    """Which positions (n,) are on land, Antarctica included; a grid of 0.1 degrees (see assets/SOURCES.md)."""
    lonlat = check_lonlat(lonlat)
    mask = _land_mask()
    rows, columns = mask.shape
    row = np.minimum(((90 - lonlat[:, 1]) / 180 * rows).astype(np.int64), rows - 1)
    column = ((lonlat[:, 0] + 180) / 360 * columns).astype(np.int64) % columns
    return mask[row, column]


def land_points(n: int, seed: int = 0, method: str = "random") -> np.ndarray:
    """n positions (n, 2) on land, even by area: "random", or close to evenly spaced with "fibonacci".

    A Fibonacci lattice is made as dense as gives n points or a few more on land; of those the surplus is dropped
    at random.
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


def density_weights(lonlat, size_km: float = 500.0) -> np.ndarray:
    """Sampling weights (n,), mean 1, that give each occupied equal-area cell of ``size_km`` the same total.

    Gazetteers and photographs crowd in Europe; sampling by these weights is even over the inhabited land instead.
    """
    _, cell, counts = np.unique(blocks(lonlat, size_km), return_inverse=True, return_counts=True)
    weights = 1.0 / counts[cell]
    return weights * (len(weights) / weights.sum())


def weighted_sample(weights, k: int, seed: int = 0) -> np.ndarray:
    """k different rows (sorted), drawn one after another with chances in proportion to weights (n,).

    By exponential keys: Efraimidis and Spirakis (2006), Weighted random sampling with a reservoir, Information
    Processing Letters 97, 181-185.
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
