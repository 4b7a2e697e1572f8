"""AlphaEarth annual embeddings (64 numbers per 10 m pixel): a ready image encoder, without a login.

Google's bucket has int8 GeoTIFFs of 8192 x 8192 pixels in UTM (-128: no data) and an index of
them in Parquet (70 MB). A number q stands for sign(q) x (q / 127.5)^2; 64 have length 1. A pixel
takes 64 blocks or 50 MB, which also have all other places in its 10 km. The live bucket was not
tried.

Sources: Brown et al. (2025), AlphaEarth Foundations, arXiv:2507.22291;
https://developers.google.com/earth-engine/guides/aef_on_gcs_readme
"""

from __future__ import annotations

import json
import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from geonb._util import tqdm, write_atomically
from geonb.data.sources._raster import REMOTE, may_pass, raster_errors
from geonb.data.sources.http import download
from geonb.data.sources.parts import Parts, Skips
from geonb.data.store import PlaceStore, geo_metadata, wkb_points

ATTRIBUTION = "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind."
LICENSE = "CC BY 4.0"
YEARS = range(2017, 2026)
DIM, NO_DATA = 64, -128
BASE = "https://storage.googleapis.com/alphaearth_foundations/satellite_embedding/v1/annual"
COLUMNS = ("path", "year", "wgs84_west", "wgs84_south", "wgs84_east", "wgs84_north")
NO_TILE = "no tile of that year, or no data in it"
_PATH = re.compile(r"(?:.*/)?(20\d\d/\d{1,2}[NS]/[A-Za-z0-9][A-Za-z0-9._-]*\.tiff?)")


def add_alphaearth(store: PlaceStore | str | Path, out: str | Path, year: int) -> dict[str, int]:
    """Write embeddings of a store's places as GeoParquet: place_id, geometry, embedding.

    The same call continues a stopped one. Places without an embedding are left out. Training
    takes the file as ``--extra``; the evaluation takes it if every place is in it.

    Args:
        store: the places, or the folder of their store.
        out: a .parquet file that does not exist.
        year: from 2017 to 2025.

    Returns:
        The number of places that are "embedded", and of those left out (:data:`NO_TILE`).

    Raises:
        ValueError: a wrong year or file name, an unusable index, or no embedding at all.
        OSError: the network failed; what is finished is kept.
    """
    store = store if isinstance(store, PlaceStore) else PlaceStore.open(store)
    if Path(out).suffix.lower() != ".parquet" or year not in YEARS:
        years = f"{YEARS[0]} to {YEARS[-1]}"
        raise ValueError(f"{out}, {year}: give a .parquet file and a year from {years}")
    plan = {"source": "alphaearth", "base_url": BASE, "year": year, "data_hash": store.data_hash}
    with Parts(out, plan) as parts:
        index = download(f"{BASE}/aef_index.parquet", parts.folder / "aef_index.parquet")
        vectors = np.full((len(store), DIM), np.nan, np.float32)
        for path, rows in tqdm(_tiles(index, year, store.lonlat), desc="alphaearth", unit="file"):
            rows = rows[np.isnan(vectors[rows, 0])]
            name = path.replace("/", "-")
            if name not in parts:
                read = _read_tile(f"{BASE}/{path}", store.lonlat[rows])
                parts.save(name, pa.table({"row": rows}), read)
            vectors[rows] = parts.array(name)
        found = np.flatnonzero(~np.isnan(vectors[:, 0]))
        if not len(found):
            raise ValueError(f"no place has an embedding: {NO_TILE}")
        left_out, skips = len(store) - len(found), Skips()
        first = int(np.isnan(vectors[:, 0]).argmax())
        skips.add(NO_TILE, f"row {first}, {store.place_id[first]}", left_out)
        skips.tell()
        made = plan | {"left_out": left_out, "begun": parts.date}
        _write(parts.out, store, vectors, found, made)
    return {"embedded": len(found), NO_TILE: left_out}


def _tiles(index: Path, year: int, lonlat: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """List the files of a year whose bounds contain positions, by path, with the rows of these."""
    import shapely

    try:
        table = pq.read_table(index, columns=list(COLUMNS), filters=[("year", "=", year)])
        west, south, east, north = (table[name].cast(pa.float64()).to_numpy() for name in COLUMNS[2:])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{index}: is no index of AlphaEarth ({error}); remove it to fetch it again") from error
    paths = [_PATH.fullmatch(str(path)) for path in table["path"].to_pylist()]
    if not any(paths):
        raise ValueError(f"{index}: no usable file of {year}; give another year")
    east = np.where(east < west, east + 360, east)  # across the antimeridian
    tree = shapely.STRtree(shapely.box(west, south, east, north))
    twice = shapely.points(np.concatenate([lonlat, lonlat + [360, 0]]))
    rows, tiles = tree.query(twice, predicate="intersects")
    found = {paths[tile]: np.sort(rows[tiles == tile] % len(lonlat)) for tile in np.unique(tiles)}
    return sorted((path[1], rows) for path, rows in found.items() if path)


def _read_tile(url: str, lonlat: np.ndarray) -> np.ndarray:
    """Read the vectors (k, 64) at positions (k, 2) from one file; NaN where it has none."""
    import rasterio
    from rasterio.warp import transform

    out = np.full((len(lonlat), DIM), np.nan, np.float32)
    try:
        with rasterio.Env(**REMOTE), rasterio.open(url, driver="GTiff") as tile:
            kind = tile.count, set(tile.dtypes)
            if kind != (DIM, {"int8"}) or tile.crs is None:
                raise ValueError(f"{url}: bands and types {kind}, not 64 bands of int8")
            xy = np.array(transform("EPSG:4326", tile.crs, *lonlat.T.tolist()))
            col, row = ~tile.transform * xy  # some files are stored from south to north
            inside = (col >= 0) & (col < tile.width) & (row >= 0) & (row < tile.height)
            height, width = tile.block_shapes[0]
            order = np.lexsort((col // width, row // height))  # each block is fetched once
            order = order[inside[order]]
            for k, q in zip(order, tile.sample(xy.T[order]), strict=True):
                if NO_DATA not in q:
                    vector = np.sign(q) * (q / 127.5) ** 2
                    out[k] = vector / np.linalg.norm(vector)
    except raster_errors() as error:
        if may_pass(error):
            raise OSError(f"{url}: {error}; the same command continues") from error
        warnings.warn(f"{url}: left out, it cannot be read ({error})", stacklevel=2)
    return out


def _write(out: Path, store: PlaceStore, vectors: np.ndarray, rows: np.ndarray, made: dict) -> None:
    lonlat, numbers = store.lonlat[rows], pa.array(vectors[rows].ravel(), pa.float32())
    columns = {
        "place_id": store.place_id[rows].tolist(),
        "geometry": wkb_points(lonlat),
        "embedding": pa.FixedSizeListArray.from_arrays(numbers, DIM),
    }
    metadata = geo_metadata([*lonlat.min(0), *lonlat.max(0)])
    metadata |= {"attribution": ATTRIBUTION, "license": LICENSE, "made": json.dumps(made, sort_keys=True)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    write_atomically(out, partial(pq.write_table, table, compression="zstd"))
