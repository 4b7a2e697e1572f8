"""Check positions on Earth, turn them into unit vectors, and measure distances between them.

A position is ``(lon, lat)`` in degrees, EPSG:4326, everywhere in GeoNB. Earth is a sphere.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from torch import Tensor

EARTH_RADIUS_KM = 6371.0088  # mean radius R1 (Moritz, 2000, Geodetic Reference System 1980)
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)  # of text; float() takes 1_3 too

#: Names of columns of longitude and latitude in lower case, the clearest first.
LON = ("longitude", "lon", "lng", "long", "decimallongitude")
LAT = ("latitude", "lat", "decimallatitude")


def check_lonlat(lonlat: ArrayLike, where: str = "", first: int = 0) -> np.ndarray:
    """Convert positions to a float64 array (n, 2), and refuse impossible ones.

    Args:
        lonlat: array-like (n, 2), longitude and latitude in degrees; a DataFrame or Arrow table with columns
            of their names (:func:`position_columns`); or a GeoSeries, GeoDataFrame or array of points.
        where: source of the rows, such as a file, for errors. ``first``: number of its first row.

    Raises:
        ValueError: wrong shape, missing or infinite values, half precision, or values out of range, with the row.
    """
    prefix = f"{where}: " if where else ""
    try:
        values = np.ma.asarray(_values(lonlat, where))
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise ValueError(f"{prefix}positions must be numbers (n, 2), (lon, lat) in degrees ({error})") from None
    if values.dtype == np.float16 or values.dtype == bool:
        kind = "boolean" if values.dtype == bool else "in half precision, which is off by kilometres"
        raise ValueError(f"{prefix}positions are {kind}; give float64")
    given = values
    if values.dtype.kind in "OUS":
        values = np.ma.array([as_number(value) for value in values.ravel().tolist()]).reshape(values.shape)
    points = np.ma.filled(values.astype(np.float64), np.nan)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{prefix}positions must have shape (n, 2), (lon, lat) in degrees, not {points.shape}")
    finite = np.isfinite(points).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        said = tuple(given[row].tolist())
        raise ValueError(f"{prefix}row {first + row}: position {said} is not finite; drop or fill it")
    outside = (np.abs(points[:, 0]) > 180) | (np.abs(points[:, 1]) > 90)
    if outside.any():
        row = int(np.argmax(outside))
        said = tuple(points[row].tolist())
        raise ValueError(f"{prefix}row {first + row}: position {said} is out of range; {range_hint(points)}")
    return points


def as_number(value: Any) -> float:
    """Return a number, or one that is written plainly; NaN for anything else."""
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else np.nan
    try:
        return float(value)
    except TypeError:  # None, pandas' NA, a date
        return np.nan


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
    """Take positions out of a frame by its geometry or the names of its columns, or out of points."""
    geometry: Any = getattr(lonlat, "geometry", None)
    if hasattr(geometry, "to_crs"):  # GeoPandas
        return _xy(geometry if geometry.crs is None else geometry.to_crs(4326))
    if hasattr(lonlat, "detach"):  # a tensor
        return lonlat.detach().cpu().double().numpy() if lonlat.dtype.itemsize > 2 else lonlat.detach().cpu().half()
    if len(lonlat) and hasattr(getattr(lonlat, "iloc", lonlat)[0], "geom_type"):
        return _xy(lonlat)
    names = getattr(lonlat, "column_names", getattr(lonlat, "columns", None))  # of Arrow, or of pandas
    if names is None:
        return lonlat
    columns = position_columns(names, where)
    if columns is None:
        known = ", ".join(map(str, names))
        raise ValueError(f"name two columns lon and lat (degrees); there are {known}")
    if [str(name).lower() for name in columns] == ["x", "y"]:
        warnings.warn("x and y are taken for longitude and latitude in degrees", stacklevel=3)
    found = [np.asarray(lonlat[name]) for name in columns]
    return np.stack([v.astype(np.float16) for v in found] if any(v.dtype == np.float16 for v in found) else found, 1)


def _xy(shapes: Any) -> np.ndarray:
    """Read x and y (n, 2) of shapely's points."""
    import shapely

    shapes = single_points(np.asarray(shapes, object))
    if (wrong := (shapely.get_type_id(shapes) != 0) | shapely.is_empty(shapes)).any():
        row = int(np.argmax(wrong))
        raise ValueError(f"row {row} is {shapes[row]}; give points")
    return shapely.get_coordinates(shapes)


def single_points(shapes: np.ndarray) -> np.ndarray:
    """Turn MultiPoints of one point among shapely's geometries (n,) into points."""
    import shapely

    single = (shapely.get_type_id(shapes) == 4) & (shapely.get_num_geometries(shapes) == 1)
    return np.where(single, shapely.get_geometry(shapes, 0), shapes)


def range_hint(points: np.ndarray) -> str:
    """Say what may be wrong with positions (n, 2), degrees, if some are out of range."""
    outside = (np.abs(points) > [180, 90]).any(1)
    if (np.abs(points) <= [90, 180]).all() and (outside.mean() >= 0.5 or outside.sum() > max(2, 0.2 * len(outside))):
        return "the columns look swapped: give (lon, lat), not (lat, lon)"
    if ((points[:, 0] >= 0) & (points[:, 0] <= 360) & (np.abs(points[:, 1]) <= 90)).all():
        return "if longitudes run from 0 to 360, take 360 off those above 180"
    if np.abs(points[outside]).min(1).max() > 1000:
        return "the numbers look like metres: reproject them to EPSG:4326"
    return f"{outside.sum():,} of {len(points):,} rows are; longitude lies in [-180, 180], latitude in [-90, 90]"


def unit_xyz(lonlat: ArrayLike) -> np.ndarray:
    """Compute unit vectors (n, 3), float64, of positions (n, 2), degrees."""
    lon, lat = np.radians(np.asarray(_values(lonlat, ""), dtype=np.float64)).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def unit_xyz_tensor(lonlat: Tensor) -> Tensor:
    """Compute unit vectors (n, 3) of positions (n, 2), degrees, in their dtype."""
    import torch

    lon, lat = torch.deg2rad(lonlat).unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


def great_circle_km(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Compute great-circle distances in km (haversine) of positions (..., 2), degrees."""
    lon_a, lat_a = np.moveaxis(np.radians(np.asarray(_values(a, ""), dtype=np.float64)), -1, 0)
    lon_b, lat_b = np.moveaxis(np.radians(np.asarray(_values(b, ""), dtype=np.float64)), -1, 0)
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
