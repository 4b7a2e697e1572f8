"""The place store: a folder of places and what was observed there, readable without GeoNB.

========================  ===========================================================================================
``places.parquet``        GeoParquet 1.1: ``place_id``, ``geometry`` (WKB points, lon/lat), ``title``, ``source``,
                          ``license``, then facts and labels as columns
``texts.parquet``         ``place_id``, ``text``, ``lang``, ``license``, ``revision``, ``url``, ``source``, ``facts``
                          (names of the facts that the text mentions); at most one text a place
``images.zarr``           Zarr v3, uint16 reflectance x 10000, (n, band, y, x), an image an inner chunk of a shard;
                          attributes ``place_id``, ``date``, ``bands``, ``gsd_m``, ``scale``; at most one image a place
``attribution.parquet``   who is to be credited for each text whose licence asks for it, with ``ATTRIBUTION.md`` in
                          words; neither is there where no licence asks (:mod:`geonb.data.attribution`)
``datacard.md``           what the data are, for people
``manifest.json``         schema version, counts, size and SHA-256 of every file, how the store was made, which
                          modalities are simulated, and which modalities can know each fact
``features/``             a cache of backbone features; no part of the data
========================  ===========================================================================================

A store is written beside its target and renamed when it is whole. Texts and images are streamed both ways: what is held
in memory are the places and their identifiers. GeoParquet: https://geoparquet.org/releases/v1.1.0/
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
from geonb.data import shards
from geonb.data.attribution import AttributionWriter, credits
from geonb.data.sentinel2 import BANDS, SCALE
from geonb.geo import check_lonlat

SCHEMA_VERSION = 1
MODALITIES = ("location", "text", "image")
IMAGES_PER_CHUNK = 64  # made, or checked, at a time
TEXTS_PER_GROUP = 256  # rows in a row group of texts.parquet: what is decoded to read one text
GROUP_BYTES = 8 << 20  # of text; a row group ends before it has more
GROUPS_KEPT = 8  # decoded row groups in memory
ROWS_AT_A_TIME = 4096  # of a table, where it is streamed
MAX_REFLECTANCE = 2.0  # mean over an image; fresh snow and thick cloud stay below
SPARE_BYTES = 32 << 20  # left free on the disk

PLACE_COLUMNS = ("place_id", "geometry", "title", "source", "license")
TEXT_COLUMNS = ("text", "lang", "license", "revision", "url", "source")
TEXT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("place_id", *TEXT_COLUMNS)] + [("facts", pa.list_(pa.string()))]
)
SMALL_FILES = ("places.parquet", "texts.parquet", "attribution.parquet", "ATTRIBUTION.md", "datacard.md")
WKB_POINT = np.dtype([("order", "u1"), ("type", "<u4"), ("lon", "<f8"), ("lat", "<f8")])


class StoreError(ValueError):
    """A place store that is broken or was asked for what it lacks; says file, row and remedy."""


def wkb_points(lonlat: ArrayLike) -> pa.Array:
    """Positions (n, 2), degrees, as an Arrow column of WKB points (21 bytes each, little-endian)."""
    lonlat = np.asarray(lonlat, dtype=np.float64)
    points = np.empty(len(lonlat), WKB_POINT)
    points["order"], points["type"], points["lon"], points["lat"] = 1, 1, lonlat[:, 0], lonlat[:, 1]
    offsets = np.arange(len(lonlat) + 1, dtype=np.int64) * WKB_POINT.itemsize
    large = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lonlat), [None, pa.py_buffer(offsets), pa.py_buffer(points.tobytes())]
    )
    return large.cast(pa.binary())


def points_from_wkb(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Positions float64 (n, 2) of a column of WKB points.

    Raises:
        ValueError: a missing value, or a geometry that is no little-endian two-dimensional point, with its row.
    """
    sizes = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False)
    wrong = sizes != WKB_POINT.itemsize
    if not wrong.any():
        points = np.frombuffer(b"".join(column.to_pylist()), WKB_POINT)
        wrong = (points["order"] != 1) | (points["type"] != 1)
    if wrong.any():
        raise ValueError(f"row {int(np.argmax(wrong))}: the geometry is not a WKB point (little-endian, x and y)")
    return np.stack([points["lon"], points["lat"]], 1)


def geo_metadata(bounds: Sequence[float]) -> dict[str, str]:
    """The ``geo`` entry of a GeoParquet 1.1 file of points; ``bounds`` is (west, south, east, north) in degrees.

    The coordinate reference system is the default of the format, OGC:CRS84: longitude, latitude on WGS 84.
    """
    column = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [float(b) for b in bounds]}
    return {"geo": json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})}


class PlaceStore:
    """A place store opened for reading; see :meth:`open`.

    Attributes:
        path: the folder.
        manifest: the content of ``manifest.json``.
        places: ``places.parquet`` as a :class:`pyarrow.Table`, in row order.
        lonlat: positions float64 (n, 2), degrees.
        place_id: identifiers, an array of str (n,).
        bands, gsd_m: band names and ground sampling distance in metres; ``None`` without images.
        dates: acquisition date (ISO 8601, or ``""``) of each image, in the order of the images.
        facts: for each fact its ``kind`` ("classification" or "regression"), ``units``, ``modalities`` (those
            that can know it) and ``source``.
        data_hash: SHA-256 of the content, whatever version of a library compressed it.
    """

    def __init__(self, path: Path, manifest: dict, places: pa.Table, texts: _Texts | None, images: Any) -> None:
        self.path, self.manifest, self.places = path, manifest, places
        self.place_id = np.array(places["place_id"].to_pylist(), dtype=str)
        self.lonlat = points_from_wkb(places["geometry"])
        self.facts: dict[str, dict] = manifest["facts"]
        self.data_hash: str = manifest["data_hash"]
        self.bands = self.gsd_m = None
        self.dates: list[str] = []
        self._texts, self._images = texts, images
        self._shards = None
        self._text_row = np.full(len(places), -1)
        self._image_row = np.full(len(places), -1)
        if texts is not None:
            _link(self._text_row, places["place_id"], texts.column("place_id"), path / "texts.parquet")
        if images is not None:
            self.bands, self.gsd_m = list(images.attrs["bands"]), float(images.attrs["gsd_m"])
            self.dates = list(images.attrs["date"])
            self._shards = shards.shards_of(path / "images.zarr")
            names = pa.array(images.attrs["place_id"], pa.string())
            _link(self._image_row, places["place_id"], names, path / "images.zarr")

    @classmethod
    def open(cls, path: str | Path, verify: bool | str = True) -> PlaceStore:
        """Open a place store.

        Args:
            path: the folder.
            verify: ``True`` checks that all files are there with their sizes, the hashes of all but the image
                chunks, the schema version, positions, identifiers and texts. ``"full"`` also hashes and checks
                the images (as :func:`check_store`). ``False`` only reads.

        Raises:
            StoreError: what is wrong, in which file and row, and what to do.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if verify:
            _check_files(path, manifest, everything=verify == "full")
        places = _read_table(path / "places.parquet", ("place_id", "geometry"))
        counts = manifest["counts"]
        texts = _Texts(path / "texts.parquet") if counts["texts"] else None
        images = _open_images(path / "images.zarr") if counts["images"] else None
        if verify:
            _check_places(path / "places.parquet", places, manifest)
        if verify and texts is not None:
            first = 0
            for batch in texts.batches("text"):
                _check_texts(str(texts.file), batch, first)
                first += len(batch)
        store = cls(path, manifest, places, texts, images)
        if verify == "full":
            _check_content(store)
        return store

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
        """A column of the places (n,): float64 with NaN where missing, or objects (str) with None where missing.

        Raises:
            StoreError: no such column; the message names those that there are.
        """
        if name not in self.columns:
            raise StoreError(f"{self.path / 'places.parquet'}: no column {name!r}; there are {', '.join(self.columns)}")
        column = self.places[name]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return np.array([*column.to_pylist(), None], dtype=object)[:-1]
        return column.cast(pa.float64()).to_numpy().astype(np.float64)

    def has(self, modality: str) -> np.ndarray:
        """Which places (n,) have a modality: "location" (all have), "text" or "image".

        Raises:
            StoreError: an unknown modality.
        """
        if modality not in MODALITIES:
            raise StoreError(f"unknown modality {modality!r}; choose from {', '.join(MODALITIES)}")
        if modality == "location":
            return np.ones(len(self), dtype=bool)
        return (self._text_row if modality == "text" else self._image_row) >= 0

    def simulated(self, modality: str) -> bool:
        """Whether the observations of a modality are simulated (``False`` for one that the store lacks)."""
        self.has(modality)
        return bool(self.manifest["simulated"].get(modality, False))

    def texts(self, rows: ArrayLike) -> list[str]:
        """The texts of places, one for each row of the store (numbers, or a mask).

        Raises:
            StoreError: a row without text.
        """
        return self.text_column("text", rows)

    def text_facts(self, rows: ArrayLike) -> list[list[str]]:
        """The names of the facts that each text mentions, a list for each row; an empty one where that is not known.

        Raises:
            StoreError: a row without text.
        """
        return [facts or [] for facts in self.text_column("facts", rows)]

    def text_column(self, name: str, rows: ArrayLike) -> list:
        """A column of ``texts.parquet`` (``lang``, ``license``, ``revision``, ``url``, ...), a value for each row of
        the store (numbers, or a mask); None where it is missing.

        Raises:
            StoreError: a row without text.
        """
        taken = self._rows(self._text_row, rows, "text")
        return self._texts.take(name, taken) if self._texts is not None and len(taken) else []

    def images(self, rows: ArrayLike, present: ArrayLike | None = None) -> np.ndarray:
        """Images uint16 (k, 12, H, W) of places, by row of the store; reflectance x 10000.

        Args:
            rows: numbers, or a mask of the store's rows.
            present: a mask (k,) of the rows: where it is false, zeros stand in the place of an image.

        Raises:
            StoreError: a row without image, or a damaged chunk.
        """
        rows = _numbers(rows)
        at = np.arange(len(rows)) if present is None else np.flatnonzero(present)
        taken = self._rows(self._image_row, rows[at], "image")
        shape = (len(BANDS), 0, 0) if self._images is None else self._images.shape[1:]
        images = np.zeros((len(rows), *shape), "<u2")
        try:
            if self._shards is not None:
                self._shards.read_into(images, at, taken)
            elif len(taken):
                images[at] = self._images.oindex[taken]
            return images
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"{self.path / 'images.zarr'}: a chunk cannot be read ({error}); {_remedy(self.path)}"
            ) from error

    def image_dates(self, rows: ArrayLike) -> list[str]:
        """Acquisition dates (ISO 8601, or ``""`` where not known) of images, one for each row of the store.

        Raises:
            StoreError: a row without image.
        """
        return [self.dates[i] for i in self._rows(self._image_row, rows, "image")]

    def _rows(self, table_row: np.ndarray, rows: ArrayLike, modality: str) -> np.ndarray:
        rows = _numbers(rows)
        taken = table_row[rows]
        if (taken < 0).any():
            row = int(rows[np.argmax(taken < 0)])
            raise StoreError(
                f"{self.path}: row {row} ({self.place_id[row]}) has no {modality}; ask store.has({modality!r}) first"
            )
        return taken


def write_store(
    path: str | Path,
    *,
    places: Mapping[str, Sequence | np.ndarray],
    texts: dict[str, Sequence] | Iterable[dict[str, Sequence] | pa.Table] | None = None,
    images: Iterable | None = None,
    image_rows: Sequence[int] | np.ndarray | None = None,
    dates: Sequence[str] | None = None,
    gsd_m: float = 10.0,
    bands: Sequence[str] = BANDS,
    facts: dict[str, dict] | None = None,
    simulated: dict[str, bool] | None = None,
    made: dict | None = None,
    datacard: str | Callable[[pa.Table], str] = "",
) -> PlaceStore:
    """Write a place store in one piece: beside its target first, renamed when whole, removed when anything fails.

    Args:
        path: the folder to make; it must not exist, or be empty.
        places: columns of n values: ``place_id`` (str, unique), ``lon``, ``lat`` (degrees), usually ``title``,
            ``source`` and ``license``, and any facts (numbers with NaN, or str with None); Arrow arrays too.
        texts: columns of at most n values: ``place_id`` and ``text``, and any of ``lang``, ``license``,
            ``revision``, ``url``, ``source`` and ``facts`` (lists of names of facts). Or an iterable of such dicts or
            of Arrow tables, which are written as they come, before the images, and not held in memory.
        images: chunks uint16 (k, 12, H, W), reflectance x 10000. A chunk may also be a pair (array, columns);
            those columns, k values each, become columns of the places, missing where there is no image.
        image_rows: for each image, in the order of the chunks, its row among the places.
        dates: for each image its acquisition date (ISO 8601), or ``""``.
        gsd_m: ground sampling distance in metres.
        bands: band names; must be those of :data:`BANDS`.
        facts: for each fact (a column of the places) its ``kind`` ("classification" or "regression"), ``units``,
            ``modalities`` (a list of "text", "image") and ``source``.
        simulated: which modalities are simulated.
        made: how the store was made (a function and its arguments, versions), kept in the manifest.
        datacard: Markdown for ``datacard.md``; a text, or a function of the finished places (a table) that
            returns one.

    Raises:
        StoreError: what is wrong with which row, or with the disk; nothing is left behind.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    if path.exists():
        raise StoreError(f"{path}: exists already; remove it or choose another folder")
    place_id, lonlat = _take_places(places)
    columns: dict[str, Any] = {
        name: values for name, values in places.items() if name not in ("place_id", "lon", "lat")
    }
    columns |= {name: _text_array(columns.get(name), len(place_id)) for name in PLACE_COLUMNS[2:]}
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(path.parent, sum(map(_bytes, columns.values())))
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        content = hashlib.sha256()
        counts = {"places": len(place_id), "texts": 0, "images": 0}
        if texts is not None:
            counts["texts"] = _write_texts(partial, texts, place_id, columns)
        if images is not None:
            rows = _check_image_rows(image_rows, len(place_id))
            columns |= _write_images(partial, images, rows, place_id, dates, gsd_m, bands, content)
            counts["images"] = len(rows)
        table = _place_table(place_id, lonlat, columns)
        _write_parquet(table, partial / "places.parquet")
        _hash_table(content, table)
        if counts["texts"]:
            _hash_texts(content, _Texts(partial / "texts.parquet"))
        card = datacard(table) if callable(datacard) else datacard
        (partial / "datacard.md").write_text(card or "# Place store\n", encoding="utf-8")
        manifest: dict[str, Any] = {
            "format": "GeoNB place store",
            "schema_version": SCHEMA_VERSION,
            "counts": counts,
            "simulated": {m: bool((simulated or {}).get(m, False)) for m in MODALITIES},
            "facts": facts or {},
            "made": made or {},
            "data_hash": content.hexdigest(),
            "files": _list_files(partial),
        }
        _check_facts(partial / "manifest.json", manifest["facts"], table.column_names)
        manifest["manifest_hash"] = _manifest_hash(manifest)
        _write_json(partial / "manifest.json", manifest)
        partial.rename(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"{path}: the disk is full; free some space or choose another folder") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PlaceStore.open(path)


def check_store(path: str | Path) -> str:
    """Check everything about a store, every byte included, and describe it.

    Returns:
        a few lines: counts, missing values, what is simulated, that all hashes agree.

    Raises:
        StoreError: the first fault found: file, row and remedy.
    """
    store = PlaceStore.open(path, verify="full")
    n, counts = len(store), store.manifest["counts"]
    text, image = store.has("text"), store.has("image")
    size = sum(entry["bytes"] for entry in store.manifest["files"].values()) / 1e6
    lines = [
        f"{store.path}: a whole place store, schema {SCHEMA_VERSION}, {size:,.1f} MB, data hash {store.data_hash[:16]}",
        f"{n:,} places: {(text & image).sum():,} with text and image, {(text & ~image).sum():,} with text alone, "
        f"{(image & ~text).sum():,} with an image alone, {(~text & ~image).sum():,} with a position alone",
    ]
    for modality, number in (("location", n), ("text", counts["texts"]), ("image", counts["images"])):
        if number:
            lines.append(f"{modality}: {number:,}, {'simulated' if store.simulated(modality) else 'as observed'}")
    for name in store.columns:
        missing = store.places[name].null_count
        if missing:
            lines.append(f"column {name}: {missing:,} of {n:,} missing")
    return "\n".join([*lines, f"{len(store.manifest['files'])} files, all hashes agree"])


# Reading


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
        raise StoreError(f"{file}: missing, so {path} is no place store or not a whole one; {_remedy(path)}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest ({error}); {_remedy(path)}") from None
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{file}: schema version {version}, but this GeoNB reads {SCHEMA_VERSION}; make the store again or "
            "install the version of GeoNB that wrote it"
        )
    if manifest.get("manifest_hash") != _manifest_hash(manifest):
        raise StoreError(f"{file}: changed since it was written; {_remedy(path)}")
    return manifest


def _check_files(path: Path, manifest: dict, everything: bool) -> None:
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise StoreError(f"{file}: missing; {_remedy(path)}")
        size = file.stat().st_size
        if size != entry["bytes"]:
            what = "truncated" if size < entry["bytes"] else "longer than written"
            raise StoreError(f"{file}: {what}, {size} of {entry['bytes']} bytes; {_remedy(path)}")
        chunk = name.startswith("images.zarr/c/")
        if (everything or not chunk) and _file_hash(file) != entry["sha256"]:
            raise StoreError(f"{file}: changed since it was written (its SHA-256 differs); {_remedy(path)}")
    if everything:
        extra = set(_list_files(path, hashes=False)) - set(manifest["files"])
        if extra:
            raise StoreError(f"{path / min(extra)}: not part of the store as it was written; remove it")


def _read_table(file: Path, required: Sequence[str]) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{file}: cannot be read ({error}); {_remedy(file.parent)}") from None
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise StoreError(f"{file}: no column {missing[0]!r}; {_remedy(file.parent)}")
    return table


def _open_images(file: Path) -> Any:
    import zarr

    try:
        images = zarr.open_array(file, mode="r")
        attributes = dict(images.attrs)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); {_remedy(file.parent)}") from None
    if images.dtype != np.uint16 or images.ndim != 4:
        raise StoreError(f"{file}: images must be uint16 (n, band, y, x), not {images.dtype} {images.shape}")
    _check_bands(file, attributes.get("bands"), images.shape[1])
    if attributes.get("scale") != SCALE:
        raise StoreError(
            f"{file}: scale {attributes.get('scale')}, but images are reflectance x {SCALE}; write them so"
        )
    for name in ("place_id", "date"):
        if len(attributes.get(name, ())) != images.shape[0]:
            raise StoreError(f"{file}: attribute {name!r} has not one value an image; {_remedy(file.parent)}")
    return images


class _Texts:
    """``texts.parquet``, read a row group at a time; it holds no file open, so it may be pickled, forked and shared."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._metadata = pq.read_metadata(file)
            schema = self._metadata.schema.to_arrow_schema()
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None
        self.names = schema.names
        for name in TEXT_SCHEMA.names:
            if name not in schema.names:
                raise StoreError(f"{file}: no column {name!r}; {_remedy(file.parent)}")
            if schema.field(name).type != TEXT_SCHEMA.field(name).type:
                raise StoreError(
                    f"{file}: column {name!r} is {schema.field(name).type}, not {TEXT_SCHEMA.field(name).type}; "
                    f"{_remedy(file.parent)}"
                )
        groups = [self._metadata.row_group(i) for i in range(self._metadata.num_row_groups)]
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        pieces = np.cumsum([0, *(group.total_byte_size for group in groups)])[:-1] // GROUP_BYTES
        self._pieces = np.split(np.arange(len(groups)), np.flatnonzero(np.diff(pieces)) + 1)
        self._kept: dict[tuple[str, int], pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return pa.chunked_array(self.batches(name), TEXT_SCHEMA.field(name).type)

    def batches(self, name: str) -> Iterator[pa.Array]:
        """A column piece by piece: a few row groups, or a few thousand rows of a large one."""
        try:
            with self._open() as file:
                for groups in self._pieces:
                    for batch in file.iter_batches(ROWS_AT_A_TIME, groups.tolist(), [name], use_threads=False):
                        yield batch.column(0)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None

    def take(self, name: str, rows: np.ndarray) -> list:
        """Values of a column, by row of the file; rows may repeat."""
        if name not in self.names:
            raise StoreError(f"{self.file}: no column {name!r}; there are {', '.join(self.names)}")
        values: list = [None] * len(rows)
        order = np.argsort(rows, kind="stable")
        group = np.searchsorted(self._starts, rows[order], "right") - 1
        try:
            with self._open() as file:
                for part in np.split(order, np.flatnonzero(np.diff(group)) + 1):
                    number = int(np.searchsorted(self._starts, rows[part[0]], "right")) - 1
                    column = self._group(file, name, number)
                    taken = column.take(pa.array(rows[part] - self._starts[number]))
                    for i, value in zip(part.tolist(), taken.to_pylist(), strict=True):
                        values[i] = value
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from None
        return values

    def _group(self, file: pq.ParquetFile, name: str, number: int) -> pa.ChunkedArray:
        column = self._kept.pop((name, number), None)
        if column is None:
            column = file.read_row_group(number, columns=[name], use_threads=False).column(0)
        self._kept[name, number] = column
        while len(self._kept) > GROUPS_KEPT:
            self._kept.pop(next(iter(tuple(self._kept))), None)
        return column

    def _open(self) -> pq.ParquetFile:
        # Buffered ahead, all that was read would stay in memory until the file is closed.
        return pq.ParquetFile(self.file, metadata=self._metadata, pre_buffer=False, buffer_size=1 << 20)

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.file}: cannot be read ({error}); {_remedy(self.file.parent)}")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": {}}


def _link(row: np.ndarray, place_id: pa.ChunkedArray, names: pa.Array | pa.ChunkedArray, file: Path) -> None:
    """For each place the row of its text or image, written into ``row``, where -1 means none."""
    places = np.asarray(pc.fill_null(pc.index_in(names, place_id.combine_chunks().cast(pa.string())), -1))
    if (places < 0).any():
        i = int(np.argmax(places < 0))
        raise StoreError(
            f"{file}: row {i}: place_id {names[i].as_py()!r} is not in places.parquet; {_remedy(file.parent)}"
        )
    _, first, back = np.unique(places, return_index=True, return_inverse=True)
    again = first[back] != np.arange(len(places))
    if again.any():
        i = int(np.argmax(again))
        raise StoreError(
            f"{file}: row {i}: place_id {names[i].as_py()!r} again, first in row {first[back[i]]}; keep one a place"
        )
    row[places] = np.arange(len(places))


def _check_places(file: Path, places: pa.Table, manifest: dict) -> None:
    if len(places) != manifest["counts"]["places"]:
        raise StoreError(f"{file}: {len(places)} rows, but the manifest counts {manifest['counts']['places']}")
    _check_ids(str(file), places["place_id"])
    try:
        check_lonlat(points_from_wkb(places["geometry"]), str(file))
    except ValueError as error:
        prefix = "" if str(error).startswith(str(file)) else f"{file}: "
        raise StoreError(f"{prefix}{error}") from None
    _check_facts(file, manifest["facts"], places.column_names)


def _check_ids(where: str, place_id: Any) -> pa.Array | pa.ChunkedArray:
    """The identifiers, a list or an Arrow column, as an Arrow column of unique names."""
    names = place_id
    if not isinstance(names, (pa.Array, pa.ChunkedArray)):
        place_id = [str(name) if isinstance(name, np.str_) else name for name in place_id]
        try:
            names = pa.array(place_id, pa.string())
        except (TypeError, ValueError, pa.ArrowException):
            names = pa.array([None], pa.string())  # the row is found below
    fine = pa.types.is_string(names.type) and not names.null_count
    if fine and _visible(names).all() and pc.count_distinct(names).as_py() == len(names):
        return names
    seen: dict[str, int] = {}
    for row, name in enumerate(place_id.to_pylist() if names is place_id else place_id):
        if not isinstance(name, str) or not name.strip():
            raise StoreError(f"{where}: row {row}: place_id {name!r} is not a name; give each place a unique str")
        if name in seen:
            raise StoreError(f"{where}: row {row}: place_id {name!r} again, first in row {seen[name]}; make it unique")
        seen[name] = row
    return names.cast(pa.string())


def _visible(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Which texts have a visible ASCII character, as almost all have: these need no closer look."""
    return np.asarray(pc.fill_null(pc.match_substring_regex(texts, "[!-~]"), False), dtype=bool)


def _check_texts(where: str, texts: pa.Array | pa.ChunkedArray, first: int) -> None:
    """Refuse an empty text; ``first`` is the row of the first."""
    for i in np.flatnonzero(~_visible(texts)):
        if not (texts[int(i)].as_py() or "").strip():
            raise StoreError(
                f"{where}: row {first + int(i)}: empty text; leave the row out, a place need not have a text"
            )


def _check_facts(file: Path, facts: dict, columns: Sequence[str]) -> None:
    for name, fact in facts.items():
        if name not in columns:
            raise StoreError(f"{file}: fact {name!r} is no column of the places; there are {', '.join(columns)}")
        if fact.get("kind") not in ("classification", "regression"):
            raise StoreError(f"{file}: fact {name!r}: kind {fact.get('kind')!r} is not classification or regression")
        unknown = set(fact.get("modalities", ())) - set(MODALITIES)
        if unknown:
            raise StoreError(f"{file}: fact {name!r}: unknown modality {min(unknown)!r}; {', '.join(MODALITIES)}")


def _check_bands(where: str | Path, bands: Sequence[str] | None, count: int) -> None:
    if list(bands or ()) != BANDS:
        raise StoreError(f"{where}: bands {bands}; images have the 12 bands {', '.join(BANDS)}, in this order")
    if count != len(BANDS):
        raise StoreError(
            f"{where}: {count} bands in the array, but {len(BANDS)} names; reorder its axes to (n, band, y, x)"
        )


def check_scaling(where: str, images: np.ndarray, first: int) -> None:
    """Refuse images (n, bands, H, W) that cannot be surface reflectance x 10000.

    Args:
        where: what the images come from; it opens the error message.
        images: integers, at least one image. ``first``: the number of the first, for the message.

    Raises:
        StoreError: an image that is all zero, or whose values are too low or too high; says which, and what to do.
    """
    flat = images.reshape(len(images), -1)
    top, mean = flat.max(1), flat.mean(1, dtype=np.float64)
    for wrong, what in (
        (top == 0, "is all zero (no data); leave the image out"),
        (
            (top > 0) & (top <= 1),
            "holds nothing above 1; multiply reflectance in 0..1 by 10000 before making it uint16",
        ),
        ((top > 1) & (top <= 255), "holds nothing above 255, as an 8-bit picture does; use reflectance x 10000"),
        (mean > MAX_REFLECTANCE * SCALE, f"has a mean above {MAX_REFLECTANCE * SCALE:.0f}; use reflectance x 10000"),
    ):
        if wrong.any():
            raise StoreError(f"{where}: image {first + int(np.argmax(wrong))} {what}")


def _check_content(store: PlaceStore) -> None:
    content = hashlib.sha256()
    if store._images is not None:
        _hash_image_head(content, store._images.attrs["place_id"], store.dates, store.gsd_m)
        rows = np.argsort(store._image_row, kind="stable")[(store._image_row < 0).sum() :]
        for start in range(0, len(rows), IMAGES_PER_CHUNK):
            chunk = store.images(rows[start : start + IMAGES_PER_CHUNK])
            check_scaling(str(store.path / "images.zarr"), chunk, start)
            content.update(chunk.data)
    _hash_table(content, store.places)
    if store._texts is not None:
        _hash_texts(content, store._texts)
    if content.hexdigest() != store.data_hash:
        raise StoreError(
            f"{store.path}: the content does not have the data hash of the manifest; {_remedy(store.path)}"
        )


# Writing


def _take_places(places: Mapping[str, Any]) -> tuple[pa.Array | pa.ChunkedArray, np.ndarray]:
    for name in ("place_id", "lon", "lat"):
        if name not in places:
            raise StoreError(f"places: no column {name!r}; every place needs place_id, lon and lat")
    if "geometry" in places:
        raise StoreError("places: a column cannot be called geometry; it is made from lon and lat")
    lengths = {name: len(values) for name, values in places.items()}
    wrong = [name for name in lengths if lengths[name] != lengths["place_id"]]
    if wrong:
        raise StoreError(f"places: column {wrong[0]!r} has {lengths[wrong[0]]} values, place_id {lengths['place_id']}")
    place_id = _check_ids("places", places["place_id"])
    try:
        lonlat = check_lonlat(np.stack([np.asarray(places[c], dtype=np.float64) for c in ("lon", "lat")], 1), "places")
    except (TypeError, ValueError) as error:
        raise StoreError(str(error)) from None
    if not len(place_id):
        raise StoreError("places: no rows; a store needs at least one place")
    return place_id, lonlat


def _write_texts(folder: Path, texts: Any, place_id: pa.Array | pa.ChunkedArray, places: dict[str, pa.Array]) -> int:
    """Stream texts into ``texts.parquet``, and who is to be credited into its files; returns how many there are."""
    writer, count = None, 0
    with AttributionWriter(folder) as attribution:
        try:
            for group in _row_groups(_checked_texts(_text_tables(texts), place_id)):
                rows, group = group["row"].to_numpy(), group.drop_columns("row")
                _check_disk(folder, group.nbytes)
                if writer is None:
                    repeated = [name for name in TEXT_COLUMNS if name not in ("text", "url", "revision")]
                    writer = pq.ParquetWriter(
                        folder / "texts.parquet", TEXT_SCHEMA, compression="zstd", use_dictionary=repeated,
                        write_statistics=["place_id"],
                    )  # fmt: skip
                writer.write_table(group, row_group_size=len(group))
                attribution.add(credits(group, places, rows))
                count += len(group)
        finally:
            if writer is not None:
                writer.close()
    return count


def _text_tables(texts: Any) -> Iterator[pa.Table]:
    """Texts as they were given, as tables of a few thousand rows."""
    for part in [texts] if isinstance(texts, (Mapping, pa.Table)) else texts:
        columns = {name: part[name] for name in (part.column_names if isinstance(part, pa.Table) else part)}
        for name in ("place_id", "text"):
            if name not in columns:
                raise StoreError(f"texts: no column {name!r}; every text needs place_id and text")
        length = len(columns["text"])
        for name in columns:
            if name not in TEXT_SCHEMA.names:
                raise StoreError(f"texts: unknown column {name!r}; there are {', '.join(TEXT_SCHEMA.names)}")
            if len(columns[name]) != length:
                raise StoreError(f"texts: column {name!r} has {len(columns[name])} values, text {length}")
        for start in range(0, length, ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, length)
            cut = {name: values[start:stop] for name, values in columns.items()}
            facts = cut.pop("facts", None)
            arrays = {name: _text_array(cut.get(name), stop - start) for name in TEXT_SCHEMA.names[:-1]}
            yield pa.table(arrays | {"facts": _lists(facts, stop - start)}, schema=TEXT_SCHEMA)


def _checked_texts(tables: Iterable[pa.Table], place_id: pa.Array | pa.ChunkedArray) -> Iterator[pa.Table]:
    """The tables with a column more, the ``row`` of the place; refuses what is no text of one place."""
    row_of = {name: row for row, name in enumerate(place_id.to_pylist())}
    first, count = np.full(len(row_of), -1), 0
    for table in tables:
        _check_texts("texts", table["text"], count)
        rows = []
        for i, name in enumerate(table["place_id"].to_pylist(), count):
            row = row_of.get(name)
            if row is None:
                raise StoreError(f"texts: row {i}: place_id {name!r} is not among the places; add it or drop the text")
            if first[row] >= 0:
                raise StoreError(f"texts: row {i}: place_id {name!r} again, first in row {first[row]}; make it unique")
            first[row] = i
            rows.append(row)
        count += len(table)
        yield table.append_column("row", pa.array(rows, pa.int64()))


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of one row group each, cut by number and size alone, however they came."""
    left = None
    for table in tables:
        left = table if left is None else pa.concat_tables([left, table])
        while length := _group_length(left):
            yield left.slice(0, length).combine_chunks()
            left = left.slice(length)
    if left is not None and len(left):
        yield left.combine_chunks()


def _group_length(table: pa.Table) -> int:
    """Rows of the first row group, or 0 while it may grow."""
    sizes = pc.binary_length(table["text"].slice(0, TEXTS_PER_GROUP)).to_numpy()
    fit = int(np.searchsorted(np.cumsum(sizes), GROUP_BYTES, "right"))
    if fit < len(sizes):
        return max(1, fit)
    return len(sizes) if len(sizes) == TEXTS_PER_GROUP else 0


def _text_array(values: Any, length: int) -> pa.Array | pa.ChunkedArray:
    """A column of str; missing where there is none."""
    if values is None:
        return pa.nulls(length, pa.string())
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(pa.string())
    return pa.array([None if is_missing(value) else str(value) for value in values], pa.string())


def _lists(values: Any, length: int) -> pa.Array | pa.ChunkedArray:
    """A column of lists of str; missing where there is none."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(TEXT_SCHEMA.field("facts").type)
    lists = [None] * length if values is None else [None if value is None else list(value) for value in values]
    return pa.array(lists, TEXT_SCHEMA.field("facts").type)


def _bytes(values: Any) -> int:
    """About how much a column takes on the disk, at most."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)) or (isinstance(values, np.ndarray) and values.dtype != object):
        return values.nbytes
    return sum(len(str(value)) for value in values)


def _check_image_rows(image_rows: Any, places: int) -> np.ndarray:
    if image_rows is None:
        raise StoreError("images: image_rows is missing; say for each image its row among the places")
    rows = np.asarray(image_rows, dtype=np.int64)
    if rows.size == 0:
        return rows
    if rows.min() < 0 or rows.max() >= places:
        raise StoreError(
            f"images: image_rows[{int(np.argmax((rows < 0) | (rows >= places)))}] is not one of {places} places"
        )
    if len(np.unique(rows)) != len(rows):
        raise StoreError("images: a place has two images; keep one a place")
    return rows


def _write_images(
    folder: Path,
    images: Any,
    rows: np.ndarray,
    place_id: Any,
    dates: Any,
    gsd_m: Any,
    bands: Sequence[str],
    content: Any,
) -> dict[str, np.ndarray]:
    """Write ``images.zarr`` and add it to the hash; returns the columns (n,) that came with the images."""
    names = place_id.take(pa.array(rows)).to_pylist()
    dates = [""] * len(rows) if dates is None else [str(d or "") for d in dates]
    if len(dates) != len(rows):
        raise StoreError(f"images: {len(rows)} images, but {len(dates)} dates")
    extra: dict[str, np.ndarray] = {}
    pending: list[np.ndarray] = []
    size, seen, shard, shape = 0, 0, 0, ()
    for chunk in images:
        chunk, columns = chunk if isinstance(chunk, tuple) else (chunk, {})
        chunk = np.asarray(chunk)
        _check_chunk(chunk, shape, seen, len(rows))
        if len(chunk) == 0:
            continue
        _check_bands("images", bands, chunk.shape[1])
        check_scaling("images", chunk, seen)
        if not size:
            shape = chunk.shape[1:]
            _check_disk(folder, len(rows) * chunk[0].nbytes)
            attributes = {
                "scale": SCALE, "gsd_m": float(gsd_m), "bands": list(bands), "place_id": names, "date": dates
            }  # fmt: skip
            size = shards.create(folder / "images.zarr", (len(rows), *shape), attributes)
            _hash_image_head(content, names, dates, gsd_m)
        _place_columns(extra, columns, rows[seen : seen + len(chunk)], len(place_id))
        content.update(np.ascontiguousarray(chunk, "<u2"))
        seen += len(chunk)
        pending.append(chunk)
        while sum(map(len, pending)) >= size or (seen == len(rows) and any(map(len, pending))):
            block = np.concatenate(pending)
            shards.write(folder / "images.zarr", shard, block[:size], size)
            shard, pending = shard + 1, [block[size:]]
    if seen != len(rows):
        raise StoreError(f"images: {seen} images, but {len(rows)} rows in image_rows")
    return extra


def _check_chunk(chunk: np.ndarray, shape: tuple, seen: int, expected: int) -> None:
    if chunk.dtype != np.uint16 or chunk.ndim != 4:
        raise StoreError(
            f"images: from image {seen} on: {chunk.dtype} {chunk.shape}; give uint16 (k, 12, H, W), x {SCALE}"
        )
    if shape and chunk.shape[1:] != shape:
        raise StoreError(f"images: image {seen} has shape {chunk.shape[1:]}, those before {shape}; cut all to one size")
    if seen + len(chunk) > expected:
        raise StoreError(f"images: more than the {expected} rows in image_rows")


def _place_columns(extra: dict, columns: dict, rows: np.ndarray, places: int) -> None:
    for name, values in columns.items():
        values = np.asarray(values)
        if name not in extra:
            text = values.dtype.kind in "UO"
            extra[name] = np.full(places, None, dtype=object) if text else np.full(places, np.nan)
        extra[name][rows] = values


def _place_table(place_id: pa.Array | pa.ChunkedArray, lonlat: np.ndarray, columns: dict) -> pa.Table:
    bounds = (*lonlat.min(0), *lonlat.max(0))
    arrays = {"place_id": place_id, "geometry": wkb_points(lonlat)}
    arrays |= {name: _text_array(columns[name], len(place_id)) for name in PLACE_COLUMNS[2:]}
    arrays |= {name: _fact_array(name, values) for name, values in columns.items() if name not in PLACE_COLUMNS}
    return pa.table(arrays).combine_chunks().replace_schema_metadata(geo_metadata(bounds))


def _fact_array(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    """Numbers keep their type (NaN becomes missing); anything else becomes str."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        if pa.types.is_floating(values.type):
            return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
            return values
        try:
            return values.cast(pa.string())
        except pa.ArrowException as error:
            raise StoreError(f"places: column {name!r} is {values.type}; give numbers or str ({error})") from None
    values = np.asarray(values) if not isinstance(values, np.ndarray) else values
    if values.ndim != 1:
        raise StoreError(f"places: column {name!r} has shape {values.shape}; give one value a place")
    if values.dtype.kind in "biu":
        return pa.array(values)
    if values.dtype.kind == "f":
        return pa.array(values, from_pandas=True)
    return _text_array(values.tolist(), len(values))


def _write_parquet(table: pa.Table, file: Path) -> None:
    pq.write_table(table, file, compression="zstd")


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_disk(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need + SPARE_BYTES:
        raise StoreError(
            f"{folder}: {free / 1e6:,.0f} MB free, but the store may need {(need + SPARE_BYTES) / 1e6:,.0f} MB; "
            "free some space or choose another folder"
        )


# Hashes


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _list_files(folder: Path, hashes: bool = True) -> dict[str, dict]:
    files = [folder / name for name in SMALL_FILES]
    files += sorted(p for p in (folder / "images.zarr").rglob("*") if p.is_file())
    return {
        file.relative_to(folder).as_posix(): (
            {"bytes": file.stat().st_size, "sha256": _file_hash(file)} if hashes else {}
        )
        for file in files
        if file.is_file()
    }


def _manifest_hash(manifest: dict) -> str:
    rest = {name: value for name, value in manifest.items() if name != "manifest_hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _hash_image_head(content: Any, place_id: Any, dates: Any, gsd_m: Any) -> None:
    content.update(json.dumps([list(place_id), list(dates), float(gsd_m)], ensure_ascii=False).encode())


def _hash_table(content: Any, table: pa.Table) -> None:
    for name in sorted(table.column_names):
        column = table[name]
        chunks = (c.slice(i, ROWS_AT_A_TIME) for c in column.chunks for i in range(0, len(c), ROWS_AT_A_TIME))
        _hash_column(content, name, len(column), column.type, chunks)


def _hash_texts(content: Any, texts: _Texts) -> None:
    for name in sorted(texts.names):
        _hash_column(content, name, len(texts), TEXT_SCHEMA.field(name).type, texts.batches(name))


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
            if len(chunk):
                content.update((comma + json.dumps(chunk.to_pylist(), ensure_ascii=False)[1:-1]).encode())
                comma = ", "
        content.update(b"]" if comma == ", " else b"[]")
