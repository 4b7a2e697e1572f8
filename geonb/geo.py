"""Check positions on Earth, turn them into unit vectors, and measure distances between them.

A position is ``(lon, lat)`` in degrees, EPSG:4326, everywhere in GeoNB. Earth is a sphere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor

EARTH_RADIUS_KM = 6371.0088  # mean radius R1 (Moritz, 2000, Geodetic Reference System 1980)


#: Names of columns of longitude and latitude in lower case, the clearest first.
LON = ("longitude", "lon", "lng", "long", "decimallongitude")
LAT = ("latitude", "lat", "decimallatitude")


def check_lonlat(lonlat: ArrayLike, where: str = "", first: int = 0) -> np.ndarray:
    """Convert positions to a float64 array (n, 2), and refuse impossible ones.

    Args:
        lonlat: array-like (n, 2), longitude and latitude in degrees; a DataFrame with columns of their
            names (:func:`position_columns`); or a GeoSeries or GeoDataFrame of points.
        where: source of the rows, such as a file, for errors. ``first``: number of its first row.

    Raises:
        ValueError: wrong shape, missing or infinite values, half precision, or values out of range, with the row.
    """
    prefix = f"{where}: " if where else ""
    values = np.ma.asarray(_values(lonlat, where))
    if values.dtype == np.float16:
        raise ValueError(f"{prefix}positions in half precision are off by kilometres; give float64")
    points = np.ma.filled(values.astype(np.float64), np.nan)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{prefix}positions must have shape (n, 2), (lon, lat) in degrees, not {points.shape}")
    finite = np.isfinite(points).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        said = tuple(points[row].tolist())
        raise ValueError(f"{prefix}row {first + row}: position {said} is not finite; drop or fill it")
    outside = (np.abs(points[:, 0]) > 180) | (np.abs(points[:, 1]) > 90)
    if outside.any():
        row = int(np.argmax(outside))
        said = tuple(points[row].tolist())
        raise ValueError(f"{prefix}row {first + row}: position {said} is out of range; {_range_hint(points, outside)}")
    return points


def position_columns(names: Iterable[Any], where: str = "") -> tuple | None:
    """Choose the columns of longitude and latitude by name, in any case.

    Those that come first in ``LON`` and ``LAT``, else ``x`` and ``y``; None without such columns.

    Raises:
        ValueError: two columns of one name.
    """
    by_name: dict[str, list] = {}
    for name in names:
        by_name.setdefault(str(name).strip().lower(), []).append(name)
    for lons, lats in ((LON, LAT), (("x",), ("y",))):
        lon, lat = (next((by_name[name] for name in known if name in by_name), []) for known in (lons, lats))
        if lon and lat:
            if twice := [found for found in (lon, lat) if len(found) > 1]:
                raise ValueError(f"{where}{': ' if where else ''}columns {' and '.join(twice[0])}: keep one of them")
            return lon[0], lat[0]
    return None


def _values(lonlat: Any, where: str) -> Any:
    """Take positions out of a frame by the names of its columns, or by its geometry."""
    geometry: Any = getattr(lonlat, "geometry", None)
    if hasattr(geometry, "geom_type"):  # GeoPandas
        if (geometry.geom_type != "Point").any():
            raise ValueError(f"{where or 'positions'}: not all geometries are points; give points")
        geometry = geometry if geometry.crs is None else geometry.to_crs(4326)
        return np.stack([geometry.x, geometry.y], 1)
    if not hasattr(lonlat, "columns"):
        return lonlat
    columns = position_columns(lonlat.columns, where)
    if columns is None:
        known = ", ".join(map(str, lonlat.columns))
        raise ValueError(f"{where or 'positions'}: name two columns lon and lat (degrees); there are {known}")
    half = all(str(lonlat[name].dtype) == "float16" for name in columns)
    return np.stack([np.asarray(lonlat[name], np.float16 if half else np.float64) for name in columns], 1)


def _range_hint(points: np.ndarray, outside: np.ndarray) -> str:
    if (np.abs(points) <= [90, 180]).all() and outside.mean() >= 0.5:
        return "the columns look swapped: give (lon, lat), not (lat, lon)"
    if ((points[:, 0] >= 0) & (points[:, 0] <= 360) & (np.abs(points[:, 1]) <= 90)).all():
        return "longitudes run from 0 to 360: take 360 off those above 180"
    if np.abs(points[outside]).min(1).max() > 1000:
        return "the numbers look like metres: reproject them to EPSG:4326"
    return f"{outside.sum():,} of {len(points):,} rows are; longitude lies in [-180, 180], latitude in [-90, 90]"


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
