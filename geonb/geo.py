"""Check positions on Earth, turn them into unit vectors, and measure distances between them.

Everywhere in GeoNB a position is ``(lon, lat)`` in degrees, EPSG:4326. Earth is a sphere here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor

EARTH_RADIUS_KM = 6371.0088  # mean radius R1 (Moritz, 2000, Geodetic Reference System 1980)


def check_lonlat(lonlat: ArrayLike, where: str = "") -> np.ndarray:
    """Convert positions to a float64 array (n, 2), and refuse impossible ones.

    Args:
        lonlat: array-like (n, 2), longitude in [-180, 180] and latitude in [-90, 90], degrees.
        where: source of the rows, for example a file name; the error message starts with it.

    Raises:
        ValueError: wrong shape, NaN or infinite values, or values out of range. The message names the
            first bad row (counted from 0) and says if the columns look swapped.
    """
    points = np.asarray(lonlat, dtype=np.float64)
    prefix = f"{where}: " if where else ""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{prefix}positions must have shape (n, 2), (lon, lat) in degrees, not {points.shape}")
    finite = np.isfinite(points).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{prefix}row {row}: position {tuple(points[row].tolist())} is not finite; drop or fill it")
    inside = (np.abs(points[:, 0]) <= 180) & (np.abs(points[:, 1]) <= 90)
    if not inside.all():
        row = int(np.argmin(inside))
        swapped = (np.abs(points[:, 1]) <= 180).all() and (np.abs(points[:, 0]) <= 90).all()
        hint = (
            "the columns look swapped: give (lon, lat), not (lat, lon)"
            if swapped
            else "longitude lies in [-180, 180], latitude in [-90, 90], in degrees (EPSG:4326)"
        )
        raise ValueError(f"{prefix}row {row}: position {tuple(points[row].tolist())} is out of range; {hint}")
    return points


def unit_xyz(lonlat: ArrayLike) -> np.ndarray:
    """Compute unit vectors (n, 3), float64, of positions (n, 2), degrees; Euclidean order equals great-circle order."""
    lon, lat = np.radians(np.asarray(lonlat, dtype=np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def unit_xyz_tensor(lonlat: Tensor) -> Tensor:
    """Compute unit vectors (n, 3) of positions (n, 2), degrees, in their dtype: :func:`unit_xyz` for PyTorch."""
    import torch

    lon, lat = torch.deg2rad(lonlat).unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


def great_circle_km(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Compute great-circle distances in km (haversine formula) of positions (..., 2), degrees, that broadcast."""
    lon_a, lat_a = np.moveaxis(np.radians(np.asarray(a, dtype=np.float64)), -1, 0)
    lon_b, lat_b = np.moveaxis(np.radians(np.asarray(b, dtype=np.float64)), -1, 0)
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))
