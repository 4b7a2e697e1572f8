"""AlphaEarth annual embeddings (64 numbers for each 10 m pixel and year) without a login: a ready image encoder.

Google's bucket ``alphaearth_foundations`` has GeoTIFFs of 8192 x 8192 pixels in UTM, int8, -128 where there is none,
and an index of them in Parquet (70 MB), of which :data:`COLUMNS` are read. A number q stands for
sign(q) x (q / 127.5)^2; 64 of them have length 1. Some files are stored from south to north: the place of a pixel is
always taken from the file's own transform.

The bands lie in blocks of 1024 x 1024 pixels of about 0.8 MB (as users of the files report), so one pixel takes 64
blocks or 50 MB, and all other places in its 10 km come with it.

The tests use a server on the loopback interface with generated files of that format. The live bucket was not tried.

Sources: Brown et al. (2025), AlphaEarth Foundations, arXiv:2507.22291;
https://developers.google.com/earth-engine/guides/aef_on_gcs_readme
"""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geonb._util import tqdm, write_atomically
from geonb.data.sources._raster import REMOTE, may_pass, raster_errors
from geonb.data.sources.http import download
from geonb.data.sources.parts import Parts
from geonb.data.store import PlaceStore, geo_metadata, wkb_points

ATTRIBUTION = "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind."
LICENSE = "CC BY 4.0"
YEARS = range(2017, 2026)
DIM = 64
NO_DATA = -128
BASE = "https://storage.googleapis.com/alphaearth_foundations/satellite_embedding/v1/annual"
COLUMNS = ("path", "year", "wgs84_west", "wgs84_south", "wgs84_east", "wgs84_north")
NO_TILE = "no tile of that year, or no data in it"
_PATH = re.compile(r"(?:.*/)?(20\d\d/\d{1,2}[NS]/[A-Za-z0-9][A-Za-z0-9._-]*\.tiff?)")


def add_alphaearth(store: PlaceStore | str | Path, out: str | Path, year: int) -> dict[str, int]:
    """Write the embeddings of a store's places as GeoParquet: ``place_id``, ``geometry``, ``embedding`` (64 float32).

    The same call continues a stopped one. Places without an embedding are left out of the file. Its metadata have the
    attribution, the licence, the year and how many were left out. Training takes it as ``--extra``; the evaluation
    takes it if every place of the store is in it.

    Args:
        store: the places, or the folder of their store.
        out: a .parquet file that does not exist.
        year: from 2017 to 2025.

    Returns:
        The number of places that are "embedded", and of those left out (:data:`NO_TILE`).

    Raises:
        ValueError: a wrong year or file name, an index without the columns or the year, a file of another kind, or no
            embedding at all.
        OSError: the network failed; what is finished is kept.
    """
    store = store if isinstance(store, PlaceStore) else PlaceStore.open(store)
    if Path(out).suffix != ".parquet" or year not in YEARS:
        raise ValueError(f"out is {out}, year {year}; give a .parquet file and a year from {YEARS[0]} to {YEARS[-1]}")
    plan = {"source": "alphaearth", "base_url": BASE, "year": year, "data_hash": store.data_hash}
    with Parts(out, plan) as parts:
        index = download(f"{BASE}/aef_index.parquet", parts.folder / "aef_index.parquet")
        vectors = np.full((len(store), DIM), np.nan, np.float32)
        for path, rows in tqdm(_tiles(index, year, store.lonlat), desc="alphaearth", unit="file"):
            rows = rows[np.isnan(vectors[rows, 0])]
            name = path.replace("/", "-")
            if name not in parts:
                parts.save(name, pa.table({"row": rows}), _read_tile(f"{BASE}/{path}", store.lonlat[rows]))
            vectors[rows] = parts.array(name)
        found = np.flatnonzero(~np.isnan(vectors[:, 0]))
        if not len(found):
            raise ValueError(f"no place has an embedding: {NO_TILE}")
        left_out = len(store) - len(found)
        _write(parts.out, store, vectors, found, plan | {"left_out": left_out, "begun": parts.date})
    return {"embedded": len(found), NO_TILE: left_out}


def _tiles(index: Path, year: int, lonlat: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """List the files of a year whose bounds contain positions, each with the rows of these, in the order of paths."""
    import shapely

    try:
        table = pq.read_table(index, columns=list(COLUMNS), filters=[("year", "=", year)])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{index}: is no index of AlphaEarth, with columns {', '.join(COLUMNS)} ({error})") from error
    paths = [_PATH.fullmatch(str(path)) for path in table["path"].to_pylist()]
    if not any(paths):
        raise ValueError(f"{index}: no usable file of {year} among {len(table):,} rows; give another year")
    west, south, east, north = (table[name].to_numpy() for name in COLUMNS[2:])
    across = shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))
    boxes = np.where(west <= east, shapely.box(west, south, east, north), across)
    rows, tiles = shapely.STRtree(boxes).query(shapely.points(lonlat), predicate="intersects")
    return sorted((paths[tile][1], np.sort(rows[tiles == tile])) for tile in np.unique(tiles) if paths[tile])


def _read_tile(url: str, lonlat: np.ndarray) -> np.ndarray:
    """Read the vectors float32 (k, 64) at positions (k, 2) from one file; NaN where it has none or cannot be read."""
    import rasterio
    from rasterio.warp import transform

    out = np.full((len(lonlat), DIM), np.nan, np.float32)
    try:
        with rasterio.Env(**REMOTE), rasterio.open(url, driver="GTiff") as tile:
            if (tile.count, set(tile.dtypes)) != (DIM, {"int8"}) or tile.crs is None:
                raise ValueError(f"{url}: {tile.count} bands of {tile.dtypes[0]}, not 64 bands of int8")
            x, y = np.array(transform("EPSG:4326", tile.crs, *lonlat.T.tolist()))
            col, row = ~tile.transform * (x, y)
            inside = np.flatnonzero((col >= 0) & (col < tile.width) & (row >= 0) & (row < tile.height))
            height, width = tile.block_shapes[0]
            order = inside[np.lexsort((col[inside] // width, row[inside] // height))]  # each block is fetched once
            for k, numbers in zip(order, tile.sample(zip(x[order], y[order], strict=True)), strict=True):
                if NO_DATA not in numbers:
                    vector = np.sign(numbers) * (numbers / 127.5) ** 2
                    out[k] = vector / np.linalg.norm(vector)
    except raster_errors() as error:
        if may_pass(error):
            raise OSError(f"{url}: could not be read ({error}); the same command continues") from error
        logging.getLogger(__name__).warning("%s: is left out, it cannot be read (%s)", url, error)
    return out


def _write(out: Path, store: PlaceStore, vectors: np.ndarray, rows: np.ndarray, made: dict) -> None:
    lonlat = store.lonlat[rows]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel(), pa.float32()), DIM)
    table = pa.table(
        {"place_id": store.place_id[rows].tolist(), "geometry": wkb_points(lonlat), "embedding": embedding}
    ).replace_schema_metadata(
        geo_metadata([*lonlat.min(0), *lonlat.max(0)])
        | {"attribution": ATTRIBUTION, "license": LICENSE, "made": json.dumps(made, sort_keys=True)}
    )
    write_atomically(out, partial(pq.write_table, table, compression="zstd"))
