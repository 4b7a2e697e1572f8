"""Check positions on Earth, turn them into unit vectors, and measure distances between them.

A position is ``(lon, lat)`` in degrees, EPSG:4326, everywhere in GeoNB. Earth is a sphere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor

EARTH_RADIUS_KM = 6371.0088  # mean radius R1 (Moritz, 2000, Geodetic Reference System 1980)


def check_lonlat(lonlat: ArrayLike, where: str = "") -> np.ndarray:
    """Convert positions (n, 2), degrees, to float64, and refuse impossible ones.

    Raises ValueError with the first bad row (from 0) of ``where``, for example a file.
    """
    points = np.asarray(lonlat, dtype=np.float64)
    prefix = f"{where}: " if where else ""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{prefix}positions have shape (n, 2), (lon, lat), not {points.shape}")
    inside = (np.abs(points) <= [180, 90]).all(1)  # False for NaN
    if not inside.all():
        row = int(np.argmin(inside))
        problem = "is out of range; longitude lies in [-180, 180], latitude in [-90, 90]"
        if not np.isfinite(points).all():
            row = int(np.argmin(np.isfinite(points).all(1)))
            problem = "is not finite; drop or fill it"
        elif (np.abs(points) <= [90, 180]).all():
            problem = "is out of range; the columns look swapped: give (lon, lat)"
        raise ValueError(f"{prefix}row {row}: position {tuple(points[row].tolist())} {problem}")
    return points


def unit_xyz(lonlat: ArrayLike) -> np.ndarray:
    """Compute unit vectors (n, 3), float64, of positions (n, 2), degrees."""
    lon, lat = np.radians(np.asarray(lonlat, dtype=np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def unit_xyz_tensor(lonlat: Tensor) -> Tensor:
    """Compute unit vectors (n, 3) of positions (n, 2), degrees, in their dtype."""
    import torch

    lon, lat = torch.deg2rad(lonlat).unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


def great_circle_km(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Compute great-circle distances in km (haversine) of positions (..., 2), degrees."""
    lon_a, lat_a = np.moveaxis(np.radians(np.asarray(a, dtype=np.float64)), -1, 0)
    lon_b, lat_b = np.moveaxis(np.radians(np.asarray(b, dtype=np.float64)), -1, 0)
    h = np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    h = np.sin((lat_b - lat_a) / 2) ** 2 + h
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))


def cell_grid(size_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide the sphere into cells of equal area, about ``size_km`` km wide and high.

    Bands are cut into equal steps from the antimeridian on; a polar cap is one cell. Returns
    the number of cells per band, from the south, and the bands' edges in sin(latitude).
    Raises ValueError for a size that is not positive.
    """
    if not size_km > 0:
        raise ValueError(f"size_km must be positive, not {size_km}")
    rows = max(2, round(np.pi * EARTH_RADIUS_KM / size_km))
    middle = np.radians(-90 + (np.arange(rows) + 0.5) * 180 / rows)
    columns = np.maximum(1, np.round(2 * rows * np.cos(middle))).astype(np.int64)
    columns[[0, -1]] = 1
    return columns, np.concatenate([[-1.0], -1 + 2 * np.cumsum(columns) / columns.sum()])


def blocks(lonlat: ArrayLike, size_km: float) -> np.ndarray:
    """Find the cell (n,) of :func:`cell_grid` in which each position (n, 2), degrees, lies.

    Example:
        Two places near Cologne lie in one cell, New York in another.

        >>> blocks([(7.0, 50.9), (7.1, 51.0), (-74.0, 40.7)], size_km=500).tolist()
        [1817, 1817, 1696]
    """
    lonlat = check_lonlat(lonlat)
    columns, edges = cell_grid(size_km)
    band = np.searchsorted(edges[1:-1], np.sin(np.radians(lonlat[:, 1])), side="right")
    k = columns[band]
    column = np.floor((lonlat[:, 0] + 180) / 360 * k).astype(np.int64) % k
    return np.concatenate([[0], np.cumsum(columns)])[band] + column


def cell_bounds(cells: ArrayLike, size_km: float) -> np.ndarray:
    """Compute west, south, east, north (n, 4), degrees, of cells of :func:`blocks`."""
    columns, edges = cell_grid(size_km)
    cells, first = np.asarray(cells, dtype=np.int64), np.concatenate([[0], np.cumsum(columns)])
    band = np.searchsorted(first, cells, side="right") - 1
    width = 360 / columns[band]
    west = (cells - first[band]) * width - 180
    south, north = np.degrees(np.arcsin(np.clip(edges, -1, 1)))[np.stack([band, band + 1])]
    return np.stack([west, south, west + width, north], 1)
