"""Embedding spaces for other programs: cloud-optimised GeoTIFF for QGIS and GDAL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from geonb._util import tqdm, write_atomically
from geonb.explore.maps import Layer, layer_of

if TYPE_CHECKING:
    from geonb.model import Model

PIXELS = 50_000  # embedded at a time, at least one row
MOST = 1_000_000_000  # pixels of a file, some 3 GB of memory


def to_geotiff(
    model: Model,
    path: str | Path,
    degrees: float = 0.25,
    *,
    place: Sequence[float] | None = None,
    text: str | None = None,
) -> Path:
    """Write a layer of a model as a cloud-optimised GeoTIFF in EPSG:4326, with overviews.

    Principal components are three bands of uint8 in 1 to 255, similarities are float32. The sea is
    nodata: 0 for colours, NaN for numbers. Architecture, version, data and units are tags.

    Args:
        path: the file; written whole or not at all.
        degrees: edge of a pixel; 180 is a whole number of them. A smaller value takes more memory,
            80 MB at 0.05. Pixels are embedded at their centres.
        place, text: see :func:`geonb.explore.maps.layer_of`.

    Raises:
        ValueError: degrees that do not divide 180 or make more than :data:`MOST` pixels, or what ``layer_of`` refuses.
    """
    import rasterio
    from rasterio.enums import ColorInterp
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    size = 180 / degrees if degrees > 0 else 0.0
    if 2 * size * size > MOST:
        size = f"{2 * size:,.0f} by {size:,.0f}"
        raise ValueError(f"{degrees:g} degrees make {size} pixels, more than {MOST:,}; give 0.01 or more")
    rows = round(size)
    if rows < 1 or abs(rows * degrees - 180) > 1e-6:
        raise ValueError(f"180 degrees are no whole number of pixels of {degrees:g} degrees; change it")
    layer = layer_of(model, place=place, text=text)
    colours = len(layer.bands) == 3
    profile = {"driver": "COG", "width": 2 * rows, "height": rows, "count": len(layer.bands), "crs": "EPSG:4326",
               "dtype": "uint8" if colours else "float32", "nodata": 0 if colours else float("nan"),
               "transform": from_origin(-180, 90, degrees, degrees), "compress": "DEFLATE", "predictor": "YES",
               "overview_resampling": "AVERAGE", "bigtiff": "IF_SAFER"}  # fmt: skip
    step, lon = max(1, PIXELS // (2 * rows)), (np.arange(2 * rows) + 0.5) * degrees - 180

    def write(target: BinaryIO) -> None:
        with rasterio.open(target, "w", **profile) as file:
            for top in tqdm(range(0, rows, step), desc="embedding rows"):
                lat = 90 - (np.arange(top, min(top + step, rows)) + 0.5) * degrees
                file.write(_block(model, layer, lon, lat), window=Window(0, top, 2 * rows, len(lat)))
            file.update_tags(**_tags(model, layer))
            file.descriptions, file.units = layer.bands, [layer.units] * len(layer.bands)
            if colours:
                file.colorinterp = ColorInterp.red, ColorInterp.green, ColorInterp.blue

    write_atomically(Path(path), write)
    return Path(path)


def _block(model: Model, layer: Layer, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Compute rows of pixels (bands, rows, columns)."""
    from geonb.data.sampling import on_land

    points, colours = np.stack(np.meshgrid(lon, lat), 2).reshape(-1, 2), len(layer.bands) == 3
    block = np.full((len(points), len(layer.bands)), 0 if colours else np.nan, np.uint8 if colours else np.float32)
    land = on_land(points)
    if land.any():
        values = layer.of(model.embed_locations(points[land]))
        block[land] = 1 + np.rint(254 * values) if colours else values
    return block.T.reshape(len(layer.bands), len(lat), len(lon))


def _tags(model: Model, layer: Layer) -> dict[str, Any]:
    from geonb import __version__

    data = model.manifest["data"]
    return {
        "TIFFTAG_SOFTWARE": f"geonb {__version__}",
        "ARCHITECTURE": model.manifest["architecture"],
        "DATA": data["name"],
        "DATA_HASH": data["hash"],
        "SIMULATED_MODALITIES": ", ".join(m for m, s in data["simulated"].items() if s) or "none",
        "LAYER": layer.title,
    }
