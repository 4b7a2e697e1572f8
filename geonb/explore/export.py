"""Embedding spaces for other programs: GeoTIFF for QGIS and GDAL, GeoParquet for tables."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geonb._util import tqdm, write_atomically
from geonb.explore.maps import Layer, land_centres, layer_of, opened
from geonb.geo import cell_bounds

if TYPE_CHECKING:
    from geonb.model import Model

AT_ONCE = 50_000  # positions embedded at a time
VALUES = 4_000_000  # written at a time


def to_geotiff(
    model: Model | str | Path,
    path: str | Path,
    degrees: float = 0.25,
    *,
    place: Sequence[float] | None = None,
    text: str | None = None,
) -> Path:
    """Write a layer of a model as a cloud-optimised GeoTIFF in EPSG:4326, with overviews.

    Principal components are three bands of uint8 in 1 to 255, which QGIS shows as colours at once; similarities are
    float32. The sea, where no place was trained on, is nodata: 0 for colours, NaN for numbers. Run, version, data and
    units are tags. Rows are written a few at a time, so memory stays bounded at any resolution.

    Args:
        model: a run's folder, or a model of :func:`geonb.load`.
        path: the file; written whole or not at all.
        degrees: edge of a pixel; 180 is a whole number of them. Pixels are areas, embedded at their centres.
        place, text: see :func:`geonb.explore.maps.layer_of`.

    Raises:
        ValueError: degrees that do not divide 180, or what ``layer_of`` refuses.
        ModuleNotFoundError: without rasterio.
    """
    import rasterio
    import rasterio.shutil
    from rasterio.enums import ColorInterp
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    path, name = Path(path), Path(model).name if isinstance(model, str | Path) else "model"
    model = opened(model)
    rows = round(180 / degrees) if degrees > 0 else 0
    if rows < 1 or abs(rows * degrees - 180) > 1e-6:
        raise ValueError(f"180 degrees are no whole number of pixels of {degrees:g} degrees; change it")
    columns = 2 * rows
    drawn = layer_of(model, place=place, text=text)
    count, colours = len(drawn.bands), len(drawn.bands) == 3
    profile = {"driver": "GTiff", "width": columns, "height": rows, "count": count, "crs": "EPSG:4326",
               "dtype": "uint8" if colours else "float32", "nodata": 0 if colours else float("nan"),
               "transform": from_origin(-180, 90, degrees, degrees), "interleave": "band",
               "photometric": "RGB" if colours else "MINISBLACK", "BIGTIFF": "IF_SAFER"}  # fmt: skip
    cloud = {"driver": "COG", "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BLOCKSIZE": 512, "OVERVIEWS": "AUTO",
             "OVERVIEW_RESAMPLING": "AVERAGE", "BIGTIFF": "IF_SAFER"}  # fmt: skip
    step = max(1, min(rows, VALUES // (columns * count)))
    lon = (np.arange(columns) + 0.5) * degrees - 180
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        plain, whole = Path(folder, "rows.tif"), Path(folder, "cog.tif")
        with rasterio.Env(GDAL_CACHEMAX=256, GDAL_PAM_ENABLED=False):
            with rasterio.open(plain, "w", **profile) as file:
                for top in tqdm(range(0, rows, step), desc="embedding rows"):
                    lat = 90 - (np.arange(top, min(top + step, rows)) + 0.5) * degrees
                    file.write(_block(model, drawn, lon, lat), window=Window(0, top, columns, len(lat)))
                file.update_tags(**_tags(model, name, drawn, degrees))
                file.descriptions, file.units = drawn.bands, [drawn.units] * count
                if colours:
                    file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
            rasterio.shutil.copy(plain, whole, **cloud)
        whole.replace(path)
    return path


def to_geoparquet(model: Model | str | Path, path: str | Path, size_km: float = 110.0) -> int:
    """Write the embeddings of all land as GeoParquet, a row for each equal-area cell; return the number of rows.

    Columns: ``cell`` (as :func:`geonb.geo.blocks` numbers them), ``land_share`` of the cell, ``geometry`` (the
    cell as a polygon, EPSG:4326) and ``embedding`` (float32, at the centre of the cell). Cells that are less than half
    land are left out.

    Args:
        model: a run's folder, or a model of :func:`geonb.load`.
        path: the file; written whole or not at all.
        size_km: edge of a cell; 110 gives 12,165.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from geonb.data.sampling import land_share
    from geonb.data.store import geo_metadata

    model, (cells, lonlat) = opened(model), land_centres(size_km)
    bounds = west, south, east, north = cell_bounds(cells, size_km).T
    z = model.embed_locations(lonlat)
    about = json.loads(geo_metadata([west.min(), south.min(), east.max(), north.max()])["geo"])
    about["columns"]["geometry"]["geometry_types"] = ["Polygon"]
    table = pa.table(
        {
            "cell": pa.array(cells, pa.int64()),
            "land_share": pa.array(land_share(cells, size_km), pa.float32()),
            "geometry": pa.array(_boxes(*bounds), pa.binary()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), model.dim),
        }
    ).replace_schema_metadata({"geo": json.dumps(about)})
    write_atomically(Path(path), lambda file: pq.write_table(table, file, compression="zstd"))
    return len(cells)


def _block(model: Model, layer: Layer, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Compute rows of pixels (bands, rows, columns)."""
    from geonb.data.sampling import on_land

    points, colours = np.stack(np.meshgrid(lon, lat), 2).reshape(-1, 2), len(layer.bands) == 3
    block = np.full((len(points), len(layer.bands)), 0 if colours else np.nan, np.uint8 if colours else np.float32)
    land = np.flatnonzero(on_land(points))
    for part in np.split(land, range(AT_ONCE, len(land), AT_ONCE)):
        values = layer.of(model.embed_locations(points[part]))
        block[part] = 1 + np.rint(254 * values) if colours else values
    return block.T.reshape(len(layer.bands), len(lat), len(lon))


def _tags(model: Model, name: str, layer: Layer, degrees: float) -> dict[str, str]:
    from geonb import __version__

    data = model.manifest.get("data", {})
    return {
        "TIFFTAG_IMAGEDESCRIPTION": f"{layer.title}, of location embeddings at the centres of pixels",
        "TIFFTAG_SOFTWARE": f"geonb {__version__}",
        "AREA_OR_POINT": "Area",
        "RUN": name,
        "ARCHITECTURE": str(model.manifest["architecture"]),
        "TRAINED_WITH": str(model.manifest["versions"]["geonb"]),
        "DATA": str(data.get("name", "")),
        "DATA_HASH": str(data.get("hash", "")),
        "SIMULATED_MODALITIES": ", ".join(m for m, s in data.get("simulated", {}).items() if s) or "none",
        "LAYER": layer.title,
        "UNITS": layer.units,
        "PIXEL_DEGREES": f"{degrees:g}",
    }


def _boxes(west: np.ndarray, south: np.ndarray, east: np.ndarray, north: np.ndarray) -> list[bytes]:
    """Encode boxes as well-known binary polygons, counter-clockwise."""
    corners = np.stack([west, south, east, south, east, north, west, north, west, south], 1).astype("<f8")
    return [struct.pack("<BIII", 1, 3, 1, 5) + row.tobytes() for row in corners]
