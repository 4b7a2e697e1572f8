"""AlphaEarth annual embeddings (64 numbers for each 10 m pixel and year) without a login: a ready image tower.

Brown et al. (2025), AlphaEarth Foundations, arXiv:2507.22291. Licence CC BY 4.0, with :data:`ATTRIBUTION`.

Google's bucket ``alphaearth_foundations`` (open to anyone since July 2026) and Source Cooperative's copy
``tge-labs/aef`` (:data:`BASES`) hold GeoTIFFs of 8192 x 8192 pixels in UTM, int8, -128 where there is none, and an
index of them in Parquet (70 MB), of which :data:`COLUMNS` are read. A number q stands for sign(q) x (q / 127.5)^2; 64
of them have length 1. Some files are stored from south to north: where a pixel lies is always taken from the file's own
transform.

What it costs: the bands lie apart, in blocks of 1024 x 1024 pixels of about 0.8 MB (as users of the files report), so
one pixel wants 64 blocks or 50 MB, and all other places in its 10 km come with it. A mean over a footprint is read from
the overviews, which are means of length 1 themselves: 640 m take about 12 MB for all places in the 82 km of a file.

Tests run against a server on the loopback interface with generated files of that format. The live buckets were not
tried.

Sources: https://developers.google.com/earth-engine/guides/aef_on_gcs_readme, https://source.coop/tge-labs/aef
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from geonb._util import write_atomically
from geonb.data.cog import Http, RemoteTiff, Unreadable, allowed
from geonb.data.download import download, plain
from geonb.data.sources.earthengine import utm_epsg
from geonb.data.store import PlaceStore, geo_metadata, wkb_points
from geonb.data.work import Work, WorkError
from geonb.geo import check_lonlat

ATTRIBUTION = "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind."
LICENSE = "CC BY 4.0"
YEARS = range(2017, 2026)
DIM = 64
NO_DATA = -128
BASES = {
    "google": "https://storage.googleapis.com/alphaearth_foundations/satellite_embedding/v1/annual",
    "source-cooperative": "https://data.source.coop/tge-labs/aef/v1/annual",
}
COLUMNS = ("path", "year", "wgs84_west", "wgs84_south", "wgs84_east", "wgs84_north")
MAX_INDEX = 1 << 30
MAX_FOOTPRINT_M = 20_000
MAX_TILE_DEGREES = 5  # from south to north; they have 0.75
PIXELS_ACROSS = 4  # of an overview in a footprint, at least

NO_TILE = "no tile of that year"
MASKED = "no data in the tile"
BROKEN = "the tile cannot be read"

_PATH = re.compile(r"(?:.*/)?(20\d\d/(\d{1,2}[NS])/[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.tiff?)")
_log = logging.getLogger(__name__)

Once = Callable[[str, Callable[[], np.ndarray]], np.ndarray]
"""The name of a piece of work and the function that does it -> its result, kept from before or made now."""


class AlphaEarthError(ValueError):
    """An index or a file that is not as it is described; says what to do."""


def dequantised(q: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] for int8 numbers, NaN for -128; any shape, which is kept."""
    v = q.astype(np.float32) / 127.5
    return np.where(q == NO_DATA, np.float32(np.nan), np.sign(v) * v * v)


def alphaearth(
    lonlat: ArrayLike,
    year: int,
    *,
    base_url: str = BASES["google"],
    index: str | Path | None = None,
    cache: str | Path | None = None,
    footprint_m: float = 0,
    workers: int = 4,
    progress: bool = True,
) -> np.ndarray:
    """Embeddings float32 (n, 64) of unit length at positions; NaN where there is none (open sea, poles).

    Pass them to training as ``extra={"alphaearth": ...}``, or to :func:`geonb.evaluation.suite.evaluate`.

    Args:
        lonlat: positions (n, 2) in degrees.
        year: from 2017 to 2025. (Source Cooperative's copy lacked 2017 at first.)
        base_url: the folder in which the years lie; see :data:`BASES`.
        index: a copy of the index; else it is downloaded from ``base_url`` once.
        cache: the folder for it; else ``geonb/alphaearth`` in XDG_CACHE_HOME or ~/.cache.
        footprint_m: edge of a square around each position over which the mean is taken, in metres; 0 for one pixel.
        workers: files read at a time. ``progress``: show bars.

    Raises:
        AlphaEarthError: the index lacks a column or the year, or a file is of another kind.
        DownloadError: the network failed; another try may help.
    """
    lonlat = check_lonlat(lonlat, "positions")
    _check(year, footprint_m, base_url, workers)
    index = _index(index, base_url, cache, progress)
    vectors, why = _embed(lonlat, year, index, base_url, footprint_m, workers, progress, lambda _, make: make())
    for reason, count in sorted(Counter(why[why != ""].tolist()).items()):
        _log.warning("%d of %d positions have no embedding: %s", count, len(lonlat), reason)
    return vectors


def add_alphaearth(
    store: PlaceStore | str | Path,
    out: str | Path,
    year: int,
    *,
    base_url: str = BASES["google"],
    index: str | Path | None = None,
    cache: str | Path | None = None,
    footprint_m: float = 0,
    workers: int = 4,
    progress: bool = True,
) -> dict[str, int]:
    """Write the embeddings of a store's places as GeoParquet: ``place_id``, ``geometry``, ``embedding`` (64 float32).

    It can be stopped at any moment, and the same call goes on; what is fetched lies in ``<out>.work`` until then.
    Places without an embedding are left out of the file. Its metadata hold the attribution, the licence, the year and
    how many were left out. :func:`geonb.inference.read_embeddings` reads it for training; the evaluation takes the file
    as it is, if every place of the store is in it.

    Args:
        out: a .parquet file that does not exist.
        others: as for :func:`alphaearth`.

    Returns:
        {"embedded": ..., and the number left out by reason}.

    Raises:
        ValueError: ``out`` is no .parquet file, or a year, footprint, address or number of workers out of range.
        WorkError: the network failed (what is finished is kept), the file is there, another process makes it, or what
            is unfinished was begun with another plan or index.
        AlphaEarthError: as for :func:`alphaearth`.
    """
    store = store if isinstance(store, PlaceStore) else PlaceStore.open(store)
    out = Path(out)
    if out.suffix != ".parquet":
        raise ValueError(f"{out}: give the name of a .parquet file")
    _check(year, footprint_m, base_url, workers)
    plan = {
        "source": "alphaearth", "base_url": base_url, "year": year, "footprint_m": footprint_m, "places": len(store),
        "data_hash": store.data_hash,
    }  # fmt: skip
    with _goes_on():
        found = _index(index, base_url, cache, progress)
        digest = _sha256(found)
    with Work(out, plan | {"index_sha256": digest}) as work:
        with _goes_on():
            vectors, why = _embed(
                store.lonlat, year, found, base_url, footprint_m, workers, progress, partial(_kept, work)
            )
        left_out = dict(sorted(Counter(why[why != ""].tolist()).items()))
        rows = np.flatnonzero(why == "")
        if not len(rows):
            raise WorkError(f"no place has an embedding: {left_out}")
        _write(out, store, vectors, rows, plan | {"left_out": left_out})
        work.finish()
    return {"embedded": len(rows)} | left_out


@contextmanager
def _goes_on() -> Iterator[None]:
    """Errors of the network and the disk become a WorkError."""
    try:
        yield
    except AlphaEarthError:
        raise
    except (ValueError, OSError) as error:
        raise WorkError(f"{error}\nWhat is finished is kept; the same command goes on from there") from error


def _check(year: int, footprint_m: float, base_url: str, workers: int) -> None:
    if year not in YEARS:
        raise ValueError(f"year is {year}, but there are {YEARS[0]} to {YEARS[-1]}")
    if not 0 <= footprint_m <= MAX_FOOTPRINT_M:
        raise ValueError(f"footprint_m is {footprint_m}, but must be from 0 to {MAX_FOOTPRINT_M:,} metres")
    if not allowed(base_url):
        raise ValueError(f"{plain(base_url)!r}: base_url must begin with https://; known: {', '.join(BASES.values())}")
    if not 1 <= workers <= 16:
        raise ValueError(f"{workers} workers: from 1 to 16 are polite")


def _kept(work: Work, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """A result of the work's folder, or made and put there."""
    import pyarrow as pa

    if not work.done(name):
        work.put(name, pa.table({}), result=make())
    return np.array(work.array(name, "result"))


def _write(out: Path, store: PlaceStore, vectors: np.ndarray, rows: np.ndarray, made: dict) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lonlat = store.lonlat[rows]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel(), pa.float32()), DIM)
    table = pa.table(
        {"place_id": store.place_id[rows].tolist(), "geometry": wkb_points(lonlat), "embedding": embedding}
    ).replace_schema_metadata(
        geo_metadata([*lonlat.min(0), *lonlat.max(0)])
        | {"attribution": ATTRIBUTION, "license": LICENSE, "made": json.dumps(made, sort_keys=True)}
    )
    write_atomically(out, partial(pq.write_table, table, compression="zstd"))


# --- the index ----------------------------------------------------------------------------------------


def _index(index: str | Path | None, base_url: str, cache: str | Path | None, progress: bool) -> Path:
    """The index on this machine; downloaded where it is not."""
    if index is not None:
        return Path(index)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache or Path(home) / "geonb" / "alphaearth")
    path = folder / f"aef_index-{hashlib.sha256(base_url.encode()).hexdigest()[:12]}.parquet"
    download([f"{base_url}/aef_index.parquet"], path, max_bytes=MAX_INDEX, progress=progress, label="AlphaEarth index")
    return path


def _sha256(index: Path) -> str:
    try:
        with index.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AlphaEarthError(f"{index}: the index cannot be read ({plain(error)}); get it anew") from error


class _Tiles:
    """The tiles of a year, and which of them may hold a position."""

    def __init__(self, path: Path, year: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(path).names
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                raise AlphaEarthError(
                    f"{path}: the index of AlphaEarth tiles has no column {missing[0]!r}; it has {', '.join(names)}. "
                    "Its layout has changed, or it is another file"
                )
            table = pq.read_table(path, columns=list(COLUMNS), filters=[("year", "=", year)])
            box = np.stack([table[name].cast(pa.float64()).to_numpy() for name in COLUMNS[2:]], 1)
            found = [_PATH.fullmatch(str(name)) for name in table["path"].to_pylist()]
        except (pa.ArrowException, OSError) as error:
            raise AlphaEarthError(f"{path}: cannot be read as Parquet ({plain(error)}); get it anew") from error
        fit = np.array([match is not None for match in found], bool) & np.isfinite(box).all(1)
        fit &= box[:, 3] - box[:, 1] <= MAX_TILE_DEGREES
        if not fit.any():
            raise AlphaEarthError(
                f"{path}: no usable tile of {year} among {len(table):,} rows; is another year, or another index, meant?"
            )
        if not fit.all():
            _log.warning("%d of %d tiles of the index have no usable path or bounds", (~fit).sum(), len(fit))
        self.paths = [match[1] for match, ok in zip(found, fit, strict=True) if ok and match]
        self.zones = [path.split("/")[1] for path in self.paths]
        self.box = box[fit]
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (west, south, east, north) in enumerate(np.clip(self.box, [-180, -90] * 2, [180, 90] * 2).tolist()):
            spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
            for a, b in spans:
                for lon in range(int(np.floor(a)), int(np.floor(b)) + 1):
                    for lat in range(int(np.floor(south)), int(np.floor(north)) + 1):
                        self._cells[lon, lat].append(i)

    def candidates(self, lonlat: np.ndarray) -> list[list[int]]:
        """For each position the tiles whose bounds hold it, those of its own UTM zone first."""
        out = []
        for (lon, lat), epsg in zip(lonlat.tolist(), utm_epsg(lonlat).tolist(), strict=True):
            zone = f"{epsg % 100}{'N' if epsg < 32700 else 'S'}"
            here = []
            for i in self._cells.get((int(np.floor(lon)), int(np.floor(lat))), []):
                west, south, east, north = self.box[i]
                across = west <= lon <= east if west <= east else lon >= west or lon <= east
                if across and south <= lat <= north:
                    here.append(i)
            out.append(sorted(here, key=lambda i: (self.zones[i].lstrip("0") != zone, self.paths[i])))
        return out


# --- the pixels ---------------------------------------------------------------------------------------


def _embed(
    lonlat: np.ndarray,
    year: int,
    index: Path,
    base_url: str,
    footprint_m: float,
    workers: int,
    progress: bool,
    once: Once,
) -> tuple[np.ndarray, np.ndarray]:
    """(Vectors (n, 64), for each position why it has none, or "")."""
    from geonb._util import tqdm

    tiles, http = _Tiles(index, year), Http()
    left = tiles.candidates(lonlat)
    vectors = np.full((len(lonlat), DIM), np.nan, np.float32)
    why = np.array([MASKED if one else NO_TILE for one in left], object)
    with tqdm(total=len(lonlat), desc="alphaearth", unit="place", disable=not progress) as bar:
        bar.update(sum(not one for one in left))
        for turn in range(max(map(len, left), default=0)):
            wanted: dict[int, list[int]] = defaultdict(list)
            for row, one in enumerate(left):
                if turn < len(one) and np.isnan(vectors[row, 0]):
                    wanted[one[turn]].append(row)

            def job(tile: int, wanted: dict[int, list[int]] = wanted, turn: int = turn) -> tuple[list[int], np.ndarray]:
                name = hashlib.sha256(tiles.paths[tile].encode()).hexdigest()[:20]
                rows = wanted[tile]
                make = partial(_read_tile, http, f"{base_url}/{tiles.paths[tile]}", lonlat[rows], footprint_m)
                return rows, once(f"tiles-{turn}/{name}", make)

            with ThreadPoolExecutor(workers) as pool:
                for rows, found in pool.map(job, sorted(wanted)):
                    vectors[rows] = found[:, :DIM]
                    why[rows] = np.where(found[:, DIM] > 0, BROKEN, why[rows])
                    bar.update(int((~np.isnan(found[:, 0])).sum()))
    why[~np.isnan(vectors[:, 0])] = ""
    return vectors, why.astype(str)


def _read_tile(http: Http, url: str, lonlat: np.ndarray, footprint_m: float) -> np.ndarray:
    """Vectors (k, 64), NaN where none, and a last column that is 1 where the file cannot be read."""
    out = np.full((len(lonlat), DIM + 1), np.nan, np.float32)
    out[:, DIM] = 0
    try:
        tiff = RemoteTiff(http, url)
        if tiff.count != DIM or tiff.dtype != "int8" or tiff.crs is None or tiff.nodata not in (NO_DATA, None):
            raise AlphaEarthError(
                f"{plain(url)}: {tiff.count} bands of {tiff.dtype} (no data: {tiff.nodata}), not the {DIM} bands of "
                "int8 of AlphaEarth; is base_url right?"
            )
        cols, rows = tiff.pixels("EPSG:4326", *lonlat.T)
        level = _level(tiff, footprint_m)
        for group, window in _windows(tiff, level, cols, rows, footprint_m):
            left, top, right, bottom = window
            numbers = tiff.read(left, top, right - left, bottom - top, level)
            for k in group:
                a, b, c, d = _inside(tiff, level, cols[k], rows[k], footprint_m)
                out[k, :DIM] = _direction(numbers[:, b - top : d - top, a - left : c - left])
    except Unreadable as error:
        _log.warning("%s cannot be read: %s", plain(url), error)
        out[:, :DIM], out[:, DIM] = np.nan, 1
    return out


def _level(tiff: RemoteTiff, footprint_m: float) -> int:
    """The coarsest overview of which at least four pixels lie across the footprint."""
    metres = abs(tiff.transform.a)
    fits = [k for k, factor in enumerate(tiff.levels) if factor * metres * PIXELS_ACROSS <= footprint_m]
    return max(fits, default=0)


def _scales(tiff: RemoteTiff, level: int) -> tuple[int, int, float, float]:
    """Width and height of a level, and how many pixels of the full resolution one of its pixels has."""
    width, height = tiff.shape(level)
    return width, height, tiff.width / width, tiff.height / height


def _inside(tiff: RemoteTiff, level: int, col: float, row: float, footprint_m: float) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of a level: those whose centres lie in the footprint, one at least."""
    width, height, wide, high = _scales(tiff, level)
    half = footprint_m / abs(tiff.transform.a) / 2
    spans = []
    for at, scale, size in ((col, wide, width), (row, high, height)):
        first, last = np.ceil((at - half) / scale - 0.5), np.floor((at + half) / scale - 0.5)
        if last < first:
            first = last = np.floor(at / scale)
        spans.append((int(max(first, 0)), int(min(last, size - 1)) + 1))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def _windows(
    tiff: RemoteTiff, level: int, cols: np.ndarray, rows: np.ndarray, footprint_m: float
) -> Iterator[tuple[list, tuple]]:
    """Groups of positions that share a block of the file, each with the window that holds all their pixels."""
    block_w, block_h = tiff.block(level)
    groups = defaultdict(list)
    for k, (col, row) in enumerate(zip(cols, rows, strict=True)):
        if 0 <= col < tiff.width and 0 <= row < tiff.height:
            left, top, right, bottom = _inside(tiff, level, col, row, footprint_m)
            if left < right and top < bottom:
                groups[left // block_w, top // block_h].append((k, (left, top, right, bottom)))
    for _, members in sorted(groups.items()):
        boxes = np.array([box for _, box in members])
        yield [k for k, _ in members], (*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist())


def _direction(numbers: np.ndarray) -> np.ndarray:
    """The direction (64,) of the mean of those pixels (64, h, w) that have data; NaN without any."""
    pixels = dequantised(numbers.reshape(DIM, -1))
    pixels = pixels[:, ~np.isnan(pixels).any(0)].astype(np.float64)
    mean = pixels.mean(1) if pixels.shape[1] else np.full(DIM, np.nan)
    length = np.linalg.norm(mean)
    return (mean / length if length > 0 else np.full(DIM, np.nan)).astype(np.float32)
