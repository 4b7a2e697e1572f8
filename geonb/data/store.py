"""The place store: a folder of places and what was observed there, readable without GeoNB.

==========================  =========================================================================================
``places.parquet``          GeoParquet 1.1: ``place_id``, ``geometry`` (WKB points, lon/lat), ``title``, ``source``,
                            ``license``, then facts and labels as columns
``texts.parquet``           ``place_id``, ``text``, ``lang``, ``license``, ``revision``, ``url``, ``source``, ``facts``
                            (names of the facts that the text mentions); at most one text per place
``images/NAME.npy``         one array of integers (n, band, y, x) for each image modality, mapped into memory; bands,
                            ``gsd_m``, ``scale``, dtype and shape are in the manifest; at most one image per place
``images/NAME.parquet``     ``place_id`` and ``date`` of each image
``attribution.parquet``     who is to be credited for each text whose licence asks for it, with ``ATTRIBUTION.md`` in
                            words; both are absent where no licence asks (:mod:`geonb.data.attribution`)
``datacard.md``             what the data are, for people
``manifest.json``           schema version, counts, size and SHA-256 of every file, how the store was made, which
                            modalities are simulated, and which modalities can tell each fact
``features/``               a cache of backbone features; no part of the data
==========================  =========================================================================================

A store is written beside its target and renamed when it is complete. Texts and images are streamed both ways: memory
holds the places and their identifiers. This module does not know where observations come from.
GeoParquet: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from geonb._util import is_missing
from geonb.data.attribution import write_credits
from geonb.data.sentinel2 import BANDS, SCALE
from geonb.geo import check_lonlat

SCHEMA_VERSION = 2
MODALITIES = ("location", "text", "image")
ARRAY = "sentinel2"  # the array of images/ behind the modality "image"
TEXTS_PER_GROUP = 256  # rows of texts.parquet that are decoded to read one of them
ROWS_AT_A_TIME = 4096  # of a table that is streamed
MAX_REFLECTANCE = 2.0  # mean over an image; fresh snow and thick cloud stay below
SPARE_BYTES = 32 << 20  # left free on the disk

PLACE_COLUMNS = ("place_id", "geometry", "title", "source", "license")
TEXT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("place_id", "text", "lang", "license", "revision", "url", "source")]
    + [("facts", pa.list_(pa.string()))]
)
WKB_POINT = np.dtype([("order", "u1"), ("type", "<u4"), ("lon", "<f8"), ("lat", "<f8")])


class StoreError(ValueError):
    """A place store that is damaged or was asked for what it lacks; names file, row and remedy."""


# Positions in GeoParquet


def wkb_points(lonlat: ArrayLike) -> pa.Array:
    """Encode positions (n, 2), degrees, as an Arrow column of WKB points (21 bytes each, little-endian)."""
    lonlat = np.asarray(lonlat, dtype=np.float64)
    points = np.empty(len(lonlat), WKB_POINT)
    points["order"], points["type"], points["lon"], points["lat"] = 1, 1, lonlat[:, 0], lonlat[:, 1]
    return pa.array([point.tobytes() for point in points], pa.binary())


def points_from_wkb(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Decode a column of WKB points into positions float64 (n, 2).

    Raises:
        ValueError: a missing value, or a geometry that is no little-endian two-dimensional point, with its row.
    """
    wrong = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False) != WKB_POINT.itemsize
    if not wrong.any():
        points = np.frombuffer(b"".join(column.to_pylist()), WKB_POINT)
        wrong = (points["order"] != 1) | (points["type"] != 1)
    if wrong.any():
        raise ValueError(f"row {int(np.argmax(wrong))}: the geometry is not a WKB point (little-endian, x and y)")
    return np.stack([points["lon"], points["lat"]], 1)


def geo_metadata(bounds: Sequence[float]) -> dict[str, str]:
    """Make the ``geo`` entry of a GeoParquet 1.1 file of points; ``bounds`` is (west, south, east, north) in degrees.

    The coordinate reference system is the default of the format, OGC:CRS84: longitude, latitude on WGS 84.
    """
    column = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [float(b) for b in bounds]}
    return {"geo": json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})}


# Reading


class PlaceStore:
    """A place store opened for reading; see :meth:`open`.

    Methods that take rows raise :class:`StoreError` for a row that lacks what is asked for.

    Attributes:
        path: the folder.
        manifest: the content of ``manifest.json``.
        places: ``places.parquet`` as a :class:`pyarrow.Table`, in row order.
        lonlat: positions float64 (n, 2), degrees.
        place_id: identifiers, an array of str (n,).
        bands, gsd_m: band names and ground sampling distance in metres; ``None`` without images.
        facts: for each fact its ``kind`` ("classification" or "regression"), ``units``, ``modalities`` (those
            that can tell it) and ``source``.
        data_hash: SHA-256 of the content, independent of files and compression.
    """

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path, self.manifest = path, manifest
        self.facts: dict[str, dict] = manifest["facts"]
        self.data_hash: str = manifest["data_hash"]
        try:
            self.places = pq.read_table(path / "places.parquet")
            self.lonlat = points_from_wkb(self.places["geometry"])
            self.place_id = np.array(self.places["place_id"].to_pylist(), dtype=str)
            self._texts = _Texts(path / "texts.parquet") if manifest["counts"]["texts"] else None
            of_text = pa.array([], pa.string()) if self._texts is None else self._texts.column("place_id")
            self._text_row = self._rows_of(of_text, "texts.parquet")
            self.bands = self.gsd_m = self._images = self._chips = None
            of_image = pa.array([], pa.string())
            if ARRAY in manifest["images"]:
                described = manifest["images"][ARRAY]
                self.bands, self.gsd_m = described["bands"], described["gsd_m"]
                self._images = _map_array(path / "images" / f"{ARRAY}.npy", described)
                self._chips = pq.read_table(path / "images" / f"{ARRAY}.parquet")
                of_image = self._chips["place_id"]
            self._image_row = self._rows_of(of_image, f"images/{ARRAY}.parquet")
        except (OSError, KeyError, pa.ArrowException) as error:
            raise StoreError(f"{path}: cannot be read ({error}); {_remedy(path)}") from error

    @classmethod
    def open(cls, path: str | Path, verify: bool | str = True) -> PlaceStore:
        """Open a place store.

        Args:
            path: the folder.
            verify: ``True`` checks that all files exist with their sizes, and the hashes of all except the image
                arrays. ``"full"`` also hashes the images. ``False`` only reads.

        Raises:
            StoreError: what is wrong, in which file, and what to do.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if verify:
            _check_files(path, manifest, full=verify == "full")
        return cls(path, manifest)

    def __reduce__(self) -> tuple:
        return PlaceStore.open, (self.path, False)  # else a memory map would be pickled with all its pixels

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        counts = self.manifest["counts"]
        return f"PlaceStore({str(self.path)!r}: {len(self)} places, {counts['texts']} texts, {counts['images']} images)"

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the places, without the geometry."""
        return [name for name in self.places.column_names if name != "geometry"]

    def column(self, name: str) -> np.ndarray:
        """Read a column of the places (n,): float64 with NaN, or objects (str) with None, where a value is missing.

        Raises:
            StoreError: no such column; the message names those that exist.
        """
        if name not in self.columns:
            raise StoreError(f"{self.path / 'places.parquet'}: no column {name!r}; there are {', '.join(self.columns)}")
        column = self.places[name]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return np.array([*column.to_pylist(), None], dtype=object)[:-1]
        return column.cast(pa.float64()).to_numpy().astype(np.float64)

    def has(self, modality: str) -> np.ndarray:
        """Tell which places (n,) have a modality: "location" (all have), "text" or "image".

        Raises:
            StoreError: an unknown modality.
        """
        if modality not in MODALITIES:
            raise StoreError(f"unknown modality {modality!r}; choose from {', '.join(MODALITIES)}")
        if modality == "location":
            return np.ones(len(self), dtype=bool)
        return (self._text_row if modality == "text" else self._image_row) >= 0

    def simulated(self, modality: str) -> bool:
        """Tell whether the observations of a modality are simulated (``False`` for one that the store lacks)."""
        self.has(modality)
        return bool(self.manifest["simulated"].get(modality, False))

    def texts(self, rows: ArrayLike) -> list[str]:
        """Read the texts of places, one for each row of the store (numbers, or a mask)."""
        return self.text_column("text", rows)

    def text_facts(self, rows: ArrayLike) -> list[list[str]]:
        """Read the names of the facts that each text mentions, a list for each row; empty where that is not known."""
        return [facts or [] for facts in self.text_column("facts", rows)]

    def text_column(self, name: str, rows: ArrayLike) -> list:
        """Read a column of ``texts.parquet`` (``lang``, ``url``, ...), one value for each row of the store."""
        taken = self._taken(self._text_row, rows, "text")
        return self._texts.take(name, taken) if self._texts is not None and len(taken) else []

    def images(self, rows: ArrayLike) -> np.ndarray:
        """Read the images (k, band, H, W) of places (numbers, or a mask); Sentinel-2: uint16, reflectance x 10,000."""
        taken = self._taken(self._image_row, rows, "image")
        return np.zeros((0, len(BANDS), 0, 0), np.uint16) if self._images is None else self._images[taken]

    def image_dates(self, rows: ArrayLike) -> list[str]:
        """Read the acquisition dates (ISO 8601, or ``""`` where not known) of images, one for each row of the store."""
        taken = self._taken(self._image_row, rows, "image")
        return self._chips["date"].take(pa.array(taken)).to_pylist() if self._chips is not None else []

    def to_xarray(self) -> Any:
        """Describe the images as an :class:`xarray.Dataset`, whose pixels are read when they are used.

        Its variable is the image array with dimensions (place, band, y, x); ``place``, ``lon``, ``lat``, ``date`` and
        ``band`` are coordinates. From there ``.chunk()`` gives Dask, ``.to_zarr()`` and ``.to_netcdf()`` write files.

        Raises:
            StoreError: the store has no images.
        """
        import xarray

        if self._images is None or self._chips is None:
            raise StoreError(f"{self.path}: has no images")
        rows = np.flatnonzero(self._image_row >= 0)
        rows = rows[np.argsort(self._image_row[rows])]
        # netCDF has no booleans.
        attributes = {"gsd_m": self.gsd_m, "scale": SCALE, "simulated": int(self.simulated("image"))}
        coordinates = {"place": self.place_id[rows], "band": self.bands}
        of_place = {"lon": self.lonlat[rows, 0], "lat": self.lonlat[rows, 1], "date": self._chips["date"].to_pylist()}
        coordinates |= {name: ("place", values) for name, values in of_place.items()}
        return xarray.Dataset({ARRAY: (("place", "band", "y", "x"), self._images, attributes)}, coordinates)

    def _rows_of(self, names: pa.Array | pa.ChunkedArray, file: str) -> np.ndarray:
        """For each place the row of its text or image, -1 for none."""
        at = np.asarray(pc.fill_null(pc.index_in(names, self.places["place_id"].combine_chunks()), -1))
        if (at < 0).any() or len(np.unique(at)) != len(at):
            raise StoreError(f"{self.path / file}: a place_id is not in places.parquet, or twice; {_remedy(self.path)}")
        row = np.full(len(self), -1)
        row[at] = np.arange(len(at))
        return row

    def _taken(self, row_of_place: np.ndarray, rows: ArrayLike, modality: str) -> np.ndarray:
        rows = _numbers(rows)
        taken = row_of_place[rows]
        if (taken < 0).any():
            row = int(rows[np.argmax(taken < 0)])
            raise StoreError(
                f"{self.path}: row {row} ({self.place_id[row]}) has no {modality}; ask store.has({modality!r}) first"
            )
        return taken


def check_store(path: str | Path) -> str:
    """Check every byte of a store against its hash, and describe it in two lines.

    Raises:
        StoreError: the first fault found: file and remedy.
    """
    store = PlaceStore.open(path, verify="full")
    files, counts = store.manifest["files"], store.manifest["counts"]
    found = {"location": len(store), "text": counts["texts"], "image": counts["images"]}
    kinds = [f"{n:,} {m} {'simulated' if store.simulated(m) else 'as observed'}" for m, n in found.items() if n]
    size = sum(entry["bytes"] for entry in files.values()) / 1e6
    return (
        f"{path}: a complete place store, schema {SCHEMA_VERSION}, data hash {store.data_hash[:16]}\n"
        f"{', '.join(kinds)}\n{len(files)} files, {size:,.1f} MB, all hashes agree"
    )


def _numbers(rows: ArrayLike) -> np.ndarray:
    """Rows as numbers, from numbers or a mask."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)


def _remedy(path: Path) -> str:
    return f"remove {path} and make the store again, or restore the file from a copy"


def _read_manifest(path: Path) -> dict:
    file = path / "manifest.json"
    if not path.is_dir():
        raise StoreError(f"{path}: no such place store; check the path, or make one: see geonb data --help")
    if (path / "config.yaml").is_file():
        raise StoreError(f"{path}: this is a trained run, not a place store; give the folder of the data")
    if not file.is_file():
        raise StoreError(f"{file}: missing, so {path} is not a complete place store; {_remedy(path)}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); {_remedy(path)}") from None
    if version != SCHEMA_VERSION:
        made = json.dumps(manifest.get("made") or "with write_store", ensure_ascii=False)
        raise StoreError(
            f"{file}: schema version {version}, but this GeoNB reads {SCHEMA_VERSION}; remove {path} and make the "
            f"store again with this version. It was made so: {made[:500]}"
        )
    return manifest


def _check_files(path: Path, manifest: dict, full: bool) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise StoreError(f"{file}: missing; {_remedy(path)}")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise StoreError(f"{file}: {size} of {entry['bytes']} bytes, so it was cut or changed; {_remedy(path)}")
        if (full or file.suffix != ".npy") and _file_hash(file) != entry["sha256"]:
            raise StoreError(f"{file}: changed since it was written (its SHA-256 differs); {_remedy(path)}")


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _map_array(file: Path, described: dict) -> np.ndarray:
    """Map the array of a file into memory; NumPy refuses a file that is shorter than its header says."""
    try:
        array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except ValueError as error:
        raise StoreError(f"{file}: cannot be mapped ({error}); {_remedy(file.parent.parent)}") from error
    if list(array.shape) != described["shape"] or array.dtype != described["dtype"]:
        raise StoreError(f"{file}: {array.dtype} {array.shape} is not what the manifest describes")
    return array


class _Texts:
    """Read ``texts.parquet`` by row group; nothing stays open, so threads and forked processes may share it."""

    def __init__(self, file: Path) -> None:
        self.file, self.metadata = file, pq.read_metadata(file)
        groups = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        self.starts = np.cumsum([0, *groups])

    def open(self) -> pq.ParquetFile:
        # With pre_buffer, all that was read would stay in memory until the file is closed.
        return pq.ParquetFile(self.file, metadata=self.metadata, memory_map=True, pre_buffer=False)

    def column(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array(self.batches(name), TEXT_SCHEMA.field(name).type)

    def batches(self, name: str) -> Iterator[pa.Array]:
        for batch in self.open().iter_batches(ROWS_AT_A_TIME, columns=[name], use_threads=False):
            yield batch.column(0)

    def take(self, name: str, rows: np.ndarray) -> list:
        """Values of a column, by row of the file; rows may repeat."""
        file, values = self.open(), np.empty(len(rows), dtype=object)
        group = np.searchsorted(self.starts, rows, "right") - 1
        order = np.argsort(group, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            number = int(group[at[0]])
            column = file.read_row_group(number, [name], use_threads=False).column(0)
            for i, value in zip(at, column.take(pa.array(rows[at] - self.starts[number])).to_pylist(), strict=True):
                values[i] = value
        return values.tolist()


# Writing


def write_store(
    path: str | Path,
    *,
    places: Mapping[str, Sequence | np.ndarray],
    texts: Mapping[str, Sequence] | pa.Table | Iterable[Mapping[str, Sequence] | pa.Table] | None = None,
    images: Iterable | None = None,
    image_rows: Sequence[int] | np.ndarray | None = None,
    dates: Sequence[str] | None = None,
    gsd_m: float = 10.0,
    facts: dict[str, dict] | None = None,
    simulated: dict[str, bool] | None = None,
    made: dict | None = None,
    datacard: str | Callable[[pa.Table], str] = "",
) -> PlaceStore:
    """Write a place store: beside its target first, renamed when complete, removed when anything fails.

    Args:
        path: the folder to make; it must not exist, or be empty.
        places: columns of n values: ``place_id`` (unique str), ``lon``, ``lat`` (degrees), and optionally ``title``,
            ``source``, ``license`` and any facts (numbers or str; NaN or None where missing).
        texts: columns ``place_id`` and ``text``, optionally the others of ``texts.parquet``; or an iterable of such
            tables, which are written one by one.
        images: an iterable of chunks uint16 (k, 12, H, W), reflectance x 10,000; or of tuples (chunk, columns) with
            further columns of the places, (k,) each, that came with the images.
        image_rows: for each image the row of its place.
        dates: for each image its acquisition date (ISO 8601), or ``""``.
        gsd_m: ground sampling distance of the images in metres.
        facts: see :class:`PlaceStore`; each is a column of the places.
        simulated: which modalities are simulated.
        made: how the store was made (a function and its arguments), kept in the manifest.
        datacard: Markdown for ``datacard.md``; a text, or a function of the finished places (a table) that returns
            one.

    Raises:
        StoreError: what is wrong with which row, or with the disk; nothing is left behind.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    if path.exists():
        raise StoreError(f"{path}: exists already; remove it or choose another folder")
    place_id, lonlat, columns = _take_places(places)
    rows = _take_image_rows(image_rows, len(place_id)) if images is not None else np.empty(0, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        content, described = hashlib.sha256(), {}
        count = _write_texts(partial / "texts.parquet", texts, place_id) if texts is not None else 0
        if len(rows):
            described[ARRAY], more = _write_images(partial, images, rows, place_id, dates, gsd_m, content)
            columns |= more
        table = pa.table({"place_id": place_id, "geometry": wkb_points(lonlat)} | columns)
        table = table.replace_schema_metadata(geo_metadata((*lonlat.min(0), *lonlat.max(0))))
        pq.write_table(table, partial / "places.parquet", compression="zstd")
        for name in sorted(table.column_names):
            _hash_column(content, name, len(table), table[name].type, table[name].chunks)
        if count:
            written = _Texts(partial / "texts.parquet")
            for name in sorted(TEXT_SCHEMA.names):
                _hash_column(content, name, count, TEXT_SCHEMA.field(name).type, written.batches(name))
            write_credits(partial, table)
        card = datacard(table) if callable(datacard) else datacard
        (partial / "datacard.md").write_text(card or "# Place store\n", encoding="utf-8")
        _check_facts(facts or {}, table.column_names)
        manifest: dict[str, Any] = {
            "format": "GeoNB place store",
            "schema_version": SCHEMA_VERSION,
            "counts": {"places": len(table), "texts": count, "images": len(rows)},
            "simulated": {m: bool((simulated or {}).get(m, False)) for m in MODALITIES},
            "images": described,
            "facts": facts or {},
            "made": made or {},
            "data_hash": content.hexdigest(),
            "files": {
                file.relative_to(partial).as_posix(): {"bytes": file.stat().st_size, "sha256": _file_hash(file)}
                for file in sorted(partial.rglob("*.*"))
            },
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (partial / "manifest.json").write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"{path}: the disk is full; free some space or choose another folder") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PlaceStore.open(path)


def _take_places(places: Mapping[str, Any]) -> tuple[pa.Array, np.ndarray, dict[str, pa.Array]]:
    """Check identifiers and positions; return them and the other columns."""
    for name in ("place_id", "lon", "lat"):
        if name not in places:
            raise StoreError(f"places: no column {name!r}; every place needs place_id, lon and lat")
    if "geometry" in places:
        raise StoreError("places: a column cannot be called geometry; it is made from lon and lat")
    lengths = {name: len(values) for name, values in places.items()}
    for name, length in lengths.items():
        if length != lengths["place_id"]:
            raise StoreError(f"places: column {name!r} has {length} values, place_id {lengths['place_id']}")
    if not lengths["place_id"]:
        raise StoreError("places: no rows; a store needs at least one place")
    place_id = _column("places", "place_id", places["place_id"])
    if not pa.types.is_string(place_id.type):
        raise StoreError(f"places: place_id is {place_id.type}; give each place a unique str")
    seen: dict[str, int] = {}
    for row, name in enumerate(place_id.to_pylist()):
        if not (name or "").strip():
            raise StoreError(f"places: row {row}: place_id {name!r} is not a name; give each place a unique str")
        if seen.setdefault(name, row) != row:
            raise StoreError(f"places: row {row}: place_id {name!r} again, first in row {seen[name]}; make it unique")
    try:
        lonlat = check_lonlat(np.stack([np.asarray(places[c], dtype=np.float64) for c in ("lon", "lat")], 1), "places")
    except (TypeError, ValueError) as error:
        raise StoreError(str(error)) from None
    others = [name for name in places if name not in (*PLACE_COLUMNS, "lon", "lat")]
    nothing = pa.nulls(len(place_id), pa.string())
    columns = {n: _column("places", n, places.get(n, nothing), pa.string()) for n in PLACE_COLUMNS[2:]}
    return place_id, lonlat, columns | {name: _column("places", name, places[name]) for name in others}


def _column(where: str, name: str, values: Any, wanted: pa.DataType | None = None) -> pa.Array:
    """A column of numbers or str; None, NaN and pandas' NA become missing."""
    try:
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            column = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
            if pa.types.is_floating(column.type):
                column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        else:
            try:
                column = pa.array(values, from_pandas=True)
            except (pa.ArrowInvalid, pa.ArrowTypeError):  # numbers and words: all become words
                column = pa.array([None if is_missing(value) else str(value) for value in values])
        number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        return column.cast(wanted or (column.type if number or pa.types.is_boolean(column.type) else pa.string()))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise StoreError(f"{where}: column {name!r}: give numbers or str, one per row ({error})") from None


def _write_texts(file: Path, texts: Any, place_id: pa.Array) -> int:
    """Stream texts into a file; return how many there are."""
    row_of, count = {name: row for row, name in enumerate(place_id.to_pylist())}, 0
    first = np.full(len(row_of), -1)
    repeated = ["lang", "license", "source"]
    with pq.ParquetWriter(file, TEXT_SCHEMA, compression="zstd", use_dictionary=repeated) as writer:
        for part in [texts] if isinstance(texts, (Mapping, pa.Table)) else texts:
            table = _text_table(part)
            for name, text in zip(table["place_id"].to_pylist(), table["text"].to_pylist(), strict=True):
                if not (text or "").strip():
                    raise StoreError(f"texts: row {count}: empty text; leave the row out, a place need not have a text")
                row = row_of.get(name)
                if row is None:
                    raise StoreError(f"texts: row {count}: place_id {name!r} is not among the places; add it there")
                if first[row] >= 0:
                    raise StoreError(f"texts: row {count}: place_id {name!r} again, first in row {first[row]}")
                first[row] = count
                count += 1
            writer.write_table(table, row_group_size=TEXTS_PER_GROUP)
    if not count:
        file.unlink()
    return count


def _text_table(part: Mapping[str, Sequence] | pa.Table) -> pa.Table:
    names = part.column_names if isinstance(part, pa.Table) else list(part)
    if not {"place_id", "text"} <= set(names) <= set(TEXT_SCHEMA.names):
        others = ", ".join(TEXT_SCHEMA.names[2:])
        raise StoreError(f"texts: columns {', '.join(names)}; needed are place_id and text, allowed are also {others}")
    lengths = {name: len(part[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise StoreError(f"texts: columns of different lengths: {lengths}")
    columns = {
        field.name: _column("texts", field.name, part[field.name], field.type)
        if field.name in names
        else pa.nulls(lengths["text"], field.type)
        for field in TEXT_SCHEMA
    }
    return pa.table(columns, schema=TEXT_SCHEMA)


def _write_images(
    folder: Path, images: Any, rows: np.ndarray, place_id: pa.Array, dates: Any, gsd_m: float, content: Any
) -> tuple[dict, dict[str, pa.Array]]:
    """Stream an array and its table; return its entry in the manifest and the columns (n,) that came with it."""
    names = place_id.take(pa.array(rows)).to_pylist()
    dates = [""] * len(rows) if dates is None else [str(date or "") for date in dates]
    if len(dates) != len(rows):
        raise StoreError(f"images: {len(rows)} images, but {len(dates)} dates")
    (folder / "images").mkdir()
    extra: dict[str, np.ndarray] = {}
    seen, shape = 0, ()
    with (folder / "images" / f"{ARRAY}.npy").open("wb") as stream:
        for chunk in images:
            chunk, columns = chunk if isinstance(chunk, tuple) else (chunk, {})
            chunk = np.asarray(chunk)
            _check_chunk(chunk, shape, seen, len(rows))
            if not len(chunk):
                continue
            if not shape:
                shape = chunk.shape[1:]
                need, free = len(rows) * chunk[0].nbytes + SPARE_BYTES, shutil.disk_usage(folder).free
                if free < need:
                    sizes = f"{free / 1e6:,.0f} MB free, but the images need {need / 1e6:,.0f} MB"
                    raise StoreError(f"{folder}: {sizes}; free some space or choose another folder")
                header = {"descr": "<u2", "fortran_order": False, "shape": (len(rows), *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                content.update(json.dumps([names, dates, float(gsd_m)], ensure_ascii=False).encode())
            for name, values in columns.items():
                values = np.asarray(values)
                if name not in extra:
                    text = values.dtype.kind in "UO"
                    extra[name] = np.full(len(place_id), None) if text else np.full(len(place_id), np.nan)
                extra[name][rows[seen : seen + len(chunk)]] = values
            pixels = np.ascontiguousarray(chunk, "<u2")
            stream.write(pixels.data)
            content.update(pixels)
            seen += len(chunk)
    if seen != len(rows):
        raise StoreError(f"images: {seen} images, but {len(rows)} rows in image_rows")
    table = pa.table({"place_id": names, "date": dates})
    pq.write_table(table, folder / "images" / f"{ARRAY}.parquet", compression="zstd")
    described = {"bands": BANDS, "gsd_m": float(gsd_m), "scale": SCALE, "dtype": "uint16", "shape": [len(rows), *shape]}
    return described, {name: _column("images", name, values) for name, values in extra.items()}


def _take_image_rows(image_rows: Any, places: int) -> np.ndarray:
    if image_rows is None:
        raise StoreError("images: image_rows is missing; give for each image its row among the places")
    rows = np.asarray(image_rows, dtype=np.int64)
    outside = (rows < 0) | (rows >= places)
    if outside.any():
        raise StoreError(f"images: image_rows[{int(np.argmax(outside))}] is not one of {places} places")
    if len(np.unique(rows)) != len(rows):
        raise StoreError("images: a place has two images; give one per place")
    return rows


def _check_chunk(chunk: np.ndarray, shape: tuple, seen: int, expected: int) -> None:
    where = f"images: from image {seen} on: {chunk.dtype} {chunk.shape}"
    if chunk.dtype != np.uint16 or chunk.ndim != 4 or chunk.shape[1] != len(BANDS):
        bands = f"bands {', '.join(BANDS)}"
        raise StoreError(f"{where}; give uint16 (k, {len(BANDS)}, H, W), reflectance x {SCALE}, {bands}")
    if shape and chunk.shape[1:] != shape:
        raise StoreError(f"{where}, those before {shape}; cut all to one size")
    if seen + len(chunk) > expected:
        raise StoreError(f"images: more than the {expected} rows in image_rows")
    if len(chunk):
        check_scaling("images", chunk, seen)


def check_scaling(where: str, images: np.ndarray, first: int) -> None:
    """Refuse images (n, bands, H, W) that cannot be surface reflectance x 10,000.

    Args:
        where: what the images come from; it opens the error message.
        images: integers, at least one image. ``first``: the number of the first, for the message.

    Raises:
        StoreError: an image that is all zero, or whose values are too low or too high; names it, and what to do.
    """
    flat = images.reshape(len(images), -1)
    top, mean = flat.max(1), flat.mean(1, dtype=np.float64)
    for wrong, what in (
        (top == 0, "is all zero (no data); leave the image out"),
        (top <= 1, "holds nothing above 1; multiply reflectance in 0..1 by 10000 before making it uint16"),
        (top <= 255, "holds nothing above 255, as an 8-bit picture does; use reflectance x 10000"),
        (mean > MAX_REFLECTANCE * SCALE, f"has a mean above {MAX_REFLECTANCE * SCALE:.0f}; use reflectance x 10000"),
    ):
        if wrong.any():
            raise StoreError(f"{where}: image {first + int(np.argmax(wrong))} {what}")


def _check_facts(facts: dict, columns: Sequence[str]) -> None:
    for name, fact in facts.items():
        if name not in columns:
            raise StoreError(f"fact {name!r} is no column of the places; there are {', '.join(columns)}")
        if fact.get("kind") not in ("classification", "regression"):
            raise StoreError(f"fact {name!r}: kind {fact.get('kind')!r} is not classification or regression")
        if unknown := set(fact.get("modalities", ())) - set(MODALITIES):
            raise StoreError(f"fact {name!r}: unknown modality {min(unknown)!r}; {', '.join(MODALITIES)}")


def _hash_column(content: Any, name: str, length: int, kind: pa.DataType, chunks: Iterable[pa.Array]) -> None:
    """Add a column to the hash: numbers as float64, geometries as they are, all else as one JSON list."""
    content.update(f"{name}:{length}:".encode())
    if pa.types.is_floating(kind):
        for chunk in chunks:
            content.update(chunk.cast(pa.float64()).to_numpy(zero_copy_only=False).astype("<f8"))
    elif pa.types.is_binary(kind):
        for chunk in chunks:
            content.update(b"".join(chunk.to_pylist()))
    else:
        comma = "["
        for chunk in chunks:
            for start in range(0, len(chunk), ROWS_AT_A_TIME):
                values = chunk.slice(start, ROWS_AT_A_TIME).to_pylist()
                content.update((comma + json.dumps(values, ensure_ascii=False)[1:-1]).encode())
                comma = ", "
        content.update(b"]" if comma == ", " else b"[]")
